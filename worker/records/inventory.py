"""How many objects each key encrypts, as a scan counts them. The size depends on keys and resources, not on objects.

A KMS provider's keys are those that the values name; past a bound they are counted together, as `others`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.worker.etcd.parts import Borders
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.records.census import ResourceCensus
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, KeyRef, Quarantine, Reason

LISTED = 1_000
"""Unreadable objects that a resource's tally lists; it counts all."""

_MOST_KEYS = 200
"""Most keys of a resource that are counted one by one; further ones of KMS are counted together.

A client that writes to etcd can invent key ids.
"""
_OTHER_KEYS = "others"


@dataclass(frozen=True, slots=True)
class ResourceRange:
    """A resource and the range of its keys, or a part of that range.

    `borders` are the ends of the namespaces, and their prefix is the path of the resource, where a survey found it.
    """

    resource: str
    range: KeyRange
    borders: Borders | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object that no configured key opens, and why."""

    key: bytes
    reason: Reason
    detail: str

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"key": key_text(self.key), "reason": self.reason.value, "detail": self.detail}


class KeyState(StrEnum):
    """Whether the objects under a key have to be rewritten. The values are stable: records and JSON contain them."""

    CURRENT = "current"
    STALE = "stale"
    UNDETERMINED = "undetermined"


@dataclass(slots=True)
class KeyTally:
    """The objects under one key: their number, their stored bytes, and the sum of their etcd versions."""

    objects: int = 0
    bytes: int = 0
    versions: int = 0


@dataclass(slots=True)
class ResourceTally:
    """What a scan found in one resource. `claimed` counts unreadable objects by the configured key in their prefix.

    `listed` names at most `LISTED` unreadable objects; `unreadable` and `reasons` count all. `outdated` counts the
    objects under the primary that a campaign rewrites all the same (`Chain.is_outdated`), `outdated_bytes` their bytes.
    """

    resource: str
    primary: KeyRef
    configured: tuple[KeyRef, ...]
    keys: dict[KeyRef, KeyTally] = field(default_factory=dict)
    claimed: dict[KeyRef, int] = field(default_factory=dict)
    unreadable: int = 0
    listed: list[Unreadable] = field(default_factory=list)
    reasons: dict[Reason, int] = field(default_factory=dict)
    outdated: int = 0
    outdated_bytes: int = 0
    apart: frozenset[str] = field(default=frozenset(), compare=False)
    """Fingerprints of KEKs that are counted one by one past the bound, too; no record of a tally has them."""

    @property
    def readable(self) -> int:
        """Objects that some configured key opens."""
        return sum(tally.objects for tally in self.keys.values())

    @property
    def objects(self) -> int:
        """All objects."""
        return self.readable + self.unreadable

    @property
    def stale(self) -> int:
        """Objects to rewrite: those that a key other than the primary opens, and outdated ones."""
        return self.elsewhere + self.outdated

    @property
    def elsewhere(self) -> int:
        """Objects that a key other than the primary opens."""
        return self.readable - (self.keys[self.primary].objects if self.primary in self.keys else 0)

    @property
    def undetermined(self) -> int:
        """Objects of which it can't be known whether they are stale, so that `stale` includes them.

        They are under a KMS v2 primary of which it is not known under which KEK it writes.
        """
        return sum(tally.objects for key, tally in self.keys.items() if self.is_undetermined(key))

    def is_undetermined(self, key: KeyRef) -> bool:
        """Whether it can't be known if values under a key are stale. Those of source type 0 are, under any KEK."""
        is_untold = self.primary.fingerprint == KMS_FINGERPRINT and self.primary.covers(key)
        return is_untold and key.is_kek and key.version == "v2" and key == key.kek

    def state_of(self, key: KeyRef) -> KeyState:
        """Return the state of the objects under a key; outdated ones are under the primary, and count as current."""
        if key == self.primary:
            return KeyState.CURRENT
        return KeyState.UNDETERMINED if self.is_undetermined(key) else KeyState.STALE

    @property
    def stale_bytes(self) -> int:
        """Stored bytes of the stale objects: about as many as a rewrap writes."""
        return sum(tally.bytes for key, tally in self.keys.items() if key != self.primary) + self.outdated_bytes

    def counted_together_with(self, key: KeyRef) -> int:
        """Return the number of objects under KEKs of a KMS provider that were too many to count each by its own."""
        together = KeyRef(key.provider, key.name, _OTHER_KEYS)
        return self.keys[together].objects if together in self.keys else 0

    def add_readable(self, key: KeyRef, size: int, version: int, *, is_outdated: bool = False) -> None:
        """Count one object that `key` opened; `is_outdated` only of one under the primary."""
        tally = self._tally(key)
        tally.objects += 1
        tally.bytes += size
        tally.versions += version
        self.outdated += is_outdated
        self.outdated_bytes += size * is_outdated

    def _tally(self, key: KeyRef) -> KeyTally:
        tally = self.keys.get(key)
        if tally is not None:
            return tally
        may_be_invented = key.provider == ProviderType.KMS and key.kek.fingerprint not in self.apart
        if len(self.keys) >= _MOST_KEYS and may_be_invented and key != self.primary:
            key = replace(key, fingerprint=_OTHER_KEYS)
        return self.keys.setdefault(key, KeyTally())

    def add_unreadable(self, etcd_key: bytes, verdict: Quarantine) -> None:
        """Count one object that no key opened, and list it if fewer than `LISTED` are."""
        self.unreadable += 1
        self.reasons[verdict.reason] = self.reasons.get(verdict.reason, 0) + 1
        for key in verdict.claimed:
            self.claimed[key] = self.claimed.get(key, 0) + 1
        if len(self.listed) < LISTED:
            self.listed.append(Unreadable(etcd_key, verdict.reason, verdict.detail))

    def __add__(self, other: ResourceTally) -> ResourceTally:
        """Add up two counts of one resource."""
        total = ResourceTally(self.resource, self.primary, self.configured, apart=self.apart | other.apart)
        for part in (self, other):
            for key, one in part.keys.items():
                tally = total._tally(key)
                tally.objects += one.objects
                tally.bytes += one.bytes
                tally.versions += one.versions
            for key, count in part.claimed.items():
                total.claimed[key] = total.claimed.get(key, 0) + count
            for reason, count in part.reasons.items():
                total.reasons[reason] = total.reasons.get(reason, 0) + count
        total.unreadable = self.unreadable + other.unreadable
        total.outdated = self.outdated + other.outdated
        total.outdated_bytes = self.outdated_bytes + other.outdated_bytes
        total.listed = [*self.listed, *other.listed][:LISTED]
        return total


def merged(tallies: Iterable[ResourceTally]) -> tuple[ResourceTally, ...]:
    """Return one count for each resource, in the order in which they first appear."""
    found: dict[str, ResourceTally] = {}
    for tally in tallies:
        before = found.get(tally.resource)
        found[tally.resource] = tally if before is None else before + tally
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Inventory:
    """A scan of resources at one revision. `unknown` names the paths that belong to no known resource.

    `peeked`: the values under KMS that count by the key that they name; the scan did not open them, and proves nothing
    of them. `census` counts the objects by namespace, one census a range in the scan's order, if the scan was asked to.
    """

    revision: int
    resources: tuple[ResourceTally, ...]
    unknown: tuple[str, ...] = ()
    peeked: int = 0
    census: tuple[ResourceCensus, ...] = field(default=(), compare=False, repr=False)

    @property
    def objects(self) -> int:
        """All objects in the scan."""
        return sum(tally.objects for tally in self.resources)

    @property
    def stale(self) -> int:
        """Objects to rewrite: under a key other than their resource's primary, or outdated under it."""
        return sum(tally.stale for tally in self.resources)

    @property
    def undetermined(self) -> int:
        """Objects of which it can't be known whether they are stale (see ResourceTally)."""
        return sum(tally.undetermined for tally in self.resources)

    @property
    def outdated(self) -> int:
        """Objects that a campaign rewrites although they are under their primary."""
        return sum(tally.outdated for tally in self.resources)

    @property
    def stale_bytes(self) -> int:
        """Stored bytes of the stale objects."""
        return sum(tally.stale_bytes for tally in self.resources)

    @property
    def unreadable(self) -> int:
        """Objects that no configured key opens."""
        return sum(tally.unreadable for tally in self.resources)

    @property
    def unreadable_by(self) -> dict[tuple[str, Reason], int]:
        """Objects that no configured key opens, by resource and reason."""
        return {(tally.resource, reason): count for tally in self.resources for reason, count in tally.reasons.items()}

    @property
    def is_clean(self) -> bool:
        """Whether every object was opened with its primary key, and every path belongs to a known resource."""
        return self.leaves_nothing and not self.peeked

    @property
    def leaves_nothing(self) -> bool:
        """Whether the scan found no stale object, no unreadable one, and no unknown path."""
        return self.stale == 0 and self.unreadable == 0 and not self.unknown

    def estimate(self) -> Estimate:
        """Return the sums of versions in this scan, which must cover its resources whole."""
        return Estimate(
            self.revision,
            {
                tally.resource: {key.fingerprint: 0 for key in tally.configured}
                | {key.fingerprint: under.versions for key, under in tally.keys.items()}
                for tally in self.resources
            },
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of the encryptions under each key up to a revision: the sum of the etcd versions of its objects.

    By resource and fingerprint; a configured key without objects in the resource has 0.
    """

    revision: int
    versions: Mapping[str, Mapping[str, int]]

    def under(self, fingerprint: str) -> dict[str, int]:
        """Return the sums of one key, by the resources in whose chain it is."""
        return {name: sums[fingerprint] for name, sums in self.versions.items() if fingerprint in sums}


def counts_json(counts: Mapping[tuple[str, Reason], int]) -> list[dict[str, object]]:
    """Return the JSON form of counts by resource and reason."""
    rows = ((resource, reason.value, count) for (resource, reason), count in counts.items())
    return [{"resource": resource, "reason": reason, "objects": count} for resource, reason, count in rows]
