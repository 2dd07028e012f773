"""The write budget of a key: arithmetic only.

NIST SP 800-38D 8.3 limits the encryptions of an AES-GCM key with random nonces. Each encryption counts, by any
process, also if its result is discarded. A budget belongs to key material, named by its fingerprint::

    used = reserved + estimated + max(0, observed - committed)

`observed` counts the writes under the key, by any process, that the watch saw before the revision that it has
reached. `committed` counts rewrap's own among them; `reserved` contains these already. A swap of ours that the
watch has yet to see must not be in `committed`, where it would hide another process' write. So each swap is
recorded with the interval of revisions that contains it. A swap recorded late, or never, makes `used` too
large, never too small.

`estimated` counts what the key encrypted in a resource before the first scan of that resource, once per resource.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from kube_rewrap.worker.fields import MOST, Fields, count_of, list_of, mapping_of, matching, members_of, text_of
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.verdict import KeyRef

T = TypeVar("T")
_DIGITS = re.compile(r"[0-9]{1,20}")  # of a number of 64 bits

LIMITED_PROVIDER = "aesgcm"
"""The only provider with a limit.

secretbox' nonces are long enough. aescbc's weakness, that it lacks integrity, does not depend on the number of writes.
"""

_KEPT = 16
"""Intervals of our swaps that a budget keeps per resource; it merges older ones."""
_NONE: Mapping[str, int] = {}


_UNCOUNTED = ("identity", "kms")


def has_budget(key: KeyRef) -> bool:
    """Tell whether a key has a write budget: all but identity, which is no key, and KMS, whose keys are elsewhere."""
    return key.provider not in _UNCOUNTED


def restored_text(key: KeyRef) -> str:
    """Return the sentence that explains a restored budget, and what the operator can do."""
    return (
        f"how often {key} has encrypted is not known: etcd was restored from a backup, or the key's write budget went "
        f"backwards. Rotate to a new key, or accept it: rewrap keys --accept {key.fingerprint}"
    )


def as_of_text(budget: Budget, revision: int) -> str:
    """Return which writes by others `used` contains, and how many it may lack at `revision`; "" = no watch ran."""
    if not budget.until:
        return ""
    since = max(0, revision + 1 - budget.until)
    lacking = f"at most {since} later writes are not counted"
    return f", with the writes of other clients before revision {budget.until} ({lacking})"


@dataclass(frozen=True, slots=True)
class Mark:
    """The store in which a record was made, by etcd's cluster id and the lead of its raft log over its revision.

    `lead` is a lower bound; see `worker.records.lineage`.
    """

    cluster_id: int = 0
    lead: int = 0


class BudgetState(StrEnum):
    """The state of a budget. `exhausted` and `restored` allow no further write; `due` still does."""

    UNLIMITED = "unlimited"
    OK = "ok"
    DUE = "due"
    EXHAUSTED = "exhausted"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class Landed:
    """A count of our applied swaps, each at a revision of its own, and the first and the last of these revisions."""

    count: int
    first: int
    last: int

    def before(self, revision: int) -> int:
        """Return a lower bound of how many were applied before a revision."""
        return max(0, min(self.count, self.count - (self.last - revision + 1)))

    def since(self, revision: int) -> Landed | None:
        """Return those that were certainly applied at a revision or later; None if there are none."""
        count = max(0, min(self.count, self.count - (revision - self.first)))
        return Landed(count, max(self.first, revision), self.last) if count else None

    def __add__(self, other: Landed) -> Landed:
        """Return both as one count over the interval that contains both."""
        return Landed(self.count + other.count, min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True, slots=True)
class Own:
    """Our swaps in one resource.

    `seen` counts those that the watch has certainly passed, `last_seen` is the revision of the last of these;
    `landed` holds the others.
    """

    seen: int = 0
    last_seen: int = 0
    landed: tuple[Landed, ...] = ()

    @property
    def count(self) -> int:
        """All swaps."""
        return self.seen + sum(one.count for one in self.landed)

    def before(self, revision: int) -> int:
        """Return a lower bound of how many the watch has passed when it has reached a revision."""
        return self.seen + sum(one.before(revision) for one in self.landed)

    def may_hold(self, landed: Landed) -> bool:
        """Tell whether `landed` may be contained already."""
        return landed.last <= self.last_seen or any(
            one.first <= landed.first and landed.last <= one.last for one in self.landed
        )

    def adding(self, landed: Landed, position: int) -> Own:
        """Return these swaps and `landed`; `position` is the watch's revision. Merges intervals beyond `_KEPT`."""
        found = sorted((*self.landed, landed), key=lambda one: one.last)
        passed = [one for one in found if one.last < position] if len(found) > _KEPT else []
        found = found[len(passed) :]
        if len(found) > _KEPT:
            found = [sum(found[1:-_KEPT], found[0]), *found[-_KEPT:]]
        seen, last = sum(one.count for one in passed), max((one.last for one in passed), default=0)
        return Own(self.seen + seen, max(self.last_seen, last), tuple(found))

    def since(self, revision: int) -> Own:
        """Return the swaps that a watch from this revision on will see: none that an earlier watch has passed."""
        return replace(self, seen=0, landed=tuple(late for one in self.landed if (late := one.since(revision))))


@dataclass(frozen=True, slots=True)
class Sight:
    """The last scan of a resource from which a budget took an estimate.

    `revision` is the scan's, `versions` the sum of the etcd versions of all objects in the resource, under any
    key (None in an older record), `swaps` the number of our swaps in the resource on record then, under any key.
    """

    revision: int
    versions: int | None = None
    swaps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Counts of encryptions under one key.

    `reserved`: tokens that our processes took. `observed`: writes by any process that the watch counted.
    `committed`: a lower bound of our own writes among these. `estimated`: writes before the first scan for the
    key, taken from the etcd versions of the objects under it. `restored`: the record has lost writes of the key
    (etcd was restored from a backup, or the observer's record is gone), and no operator has accepted that yet.
    `made_in` marks the store in which the record was last known to be complete; `accepted` counts how often an
    operator accepted the budget.

    `sights` has an entry for each resource that was scanned for the key; None in a record from before resources
    were distinguished. `born` is the revision at which rewrap made the key, which had encrypted nothing then; 0 =
    rewrap did not make it. `own` has our swaps by resource. `watched`: the observer had a record when this one was
    last written. `until` is the revision before which the watch counted every write, 0 = no watch ever did.
    `observed`, `committed` and `until` are not stored in the record: `seen_by` sets them.
    """

    fingerprint: str
    provider: str
    names: tuple[str, ...] = ()
    reserved: int = 0
    committed: int = 0
    observed: int = 0
    estimated: int = 0
    restored: bool = False
    made_in: Mark = Mark()
    accepted: int = 0
    sights: Mapping[str, Sight] | None = field(default_factory=dict)
    born: int = 0
    own: Mapping[str, Own] = field(default_factory=dict)
    watched: bool = False
    until: int = 0

    # Combined with the watch's counts.

    def lost_its_watch(self, seen: Observations) -> bool:
        """Tell whether the observer once had a record, and has none now: the count of others' writes is lost."""
        return self.watched and not seen.has_begun

    def without_its_watch(self) -> Budget:
        """Return the budget after that loss: its use is unknown until an operator accepts it."""
        return replace(self, restored=True, watched=False, own={})

    def seen_by(self, seen: Observations) -> Budget:
        """Return the budget as of the revision that the watch has reached."""
        committed = sum(own.before(seen.position(resource, self.fingerprint)) for resource, own in self.own.items())
        observed = seen.counts.get(self.fingerprint, 0)
        return replace(self, observed=observed, committed=committed, until=seen.until)

    def begins(self, resource: str) -> int | None:
        """Return the revision from which on writes in a resource must be counted; None = no scan covered it yet."""
        sight = (self.sights or {}).get(resource)
        if sight is not None:
            return sight.revision + 1
        return self.born + 1 if self.born else None

    def is_to_see(self, resource: str, seen: Observations) -> bool:
        """Tell whether the key's use in a resource is neither counted nor estimated yet."""
        return self.begins(resource) is None and not seen.position(resource, self.fingerprint)

    def sighted(
        self, estimate: Estimate, seen: Observations, swaps: Mapping[str, int] = _NONE, again: Collection[str] = ()
    ) -> Budget:
        """Return the budget with an estimate for each resource that `estimate` covers for the first time.

        `swaps` is the number of our swaps on record by resource. `again` names resources whose last sight is so
        old that the writes since can't be counted any more: their estimate grows by the versions added since that
        sight, less our own swaps since. Where no versions are on record from then, these are all versions, also from
        before rewrap made the key: so no more than one write a revision, in all of these resources.
        """
        sights, own, estimated = dict(self.sights or {}), dict(self.own), self.estimated
        unbounded, first, ours = 0, estimate.revision, 0
        for resource, versions in estimate.under(self.fingerprint).items():
            if resource not in again and not self.is_to_see(resource, seen):
                continue
            every = sum(estimate.versions[resource].values())
            if self.sights is None and not seen.has_begun:
                pass  # an older record: its estimate covers all resources
            elif resource not in again:
                estimated += versions
            elif (before := sights.get(resource)) is not None and before.versions is not None:
                estimated += max(0, every - before.versions - max(0, swaps.get(resource, 0) - before.swaps))
            else:
                unbounded += max(0, versions - own.get(resource, Own()).count)
                first = min(first, self.begins(resource) or 0)
                ours += sum(one.before(estimate.revision + 1) for one in own.get(resource, Own()).landed)
            sights[resource] = Sight(estimate.revision, every, swaps.get(resource, 0))
            if resource in own:
                own[resource] = own[resource].since(estimate.revision + 1)
        estimated += min(unbounded, max(0, estimate.revision + 1 - first - ours))
        return replace(self, sights=sights, own=own, estimated=estimated)

    def landing(self, resource: str, landed: Landed, seen: Observations) -> Budget:
        """Return the budget with swaps of ours that were applied."""
        late = landed.since(self.begins(resource) or 0)
        if self.restored or late is None:
            # The watch does not count swaps from before a restore; in `committed` they would hide others' writes.
            return self
        own = self.own.get(resource, Own()).adding(late, seen.position(resource, self.fingerprint))
        return replace(self, own={**self.own, resource: own})

    # Limits.

    @property
    def used(self) -> int:
        """Encryptions under the key as far as they are counted; those of other processes up to `until`."""
        return self.reserved + self.estimated + max(0, self.observed - self.committed)

    @property
    def estimated_at_most(self) -> int | None:
        """Upper bound of the writes that `estimated` estimates; None if neither `sights` nor `born` is on record.

        A scan misses the writes of objects that were deleted before it; but each write took a revision.
        """
        if not self.sights and not self.born:
            return None
        return max([self.estimated, *(sight.revision - self.born for sight in (self.sights or {}).values())])

    @property
    def collision_probability(self) -> float | None:
        """Probability that two writes so far shared a nonce (about n^2 / 2^97); None for providers without a limit."""
        return self.used**2 / 2**97 if self.provider == LIMITED_PROVIDER else None

    def limit(self, gcm_limit: int) -> int | None:
        """Return how many writes the key may make in all; None = no limit."""
        return gcm_limit if self.provider == LIMITED_PROVIDER else None

    def left(self, gcm_limit: int) -> int | None:
        """Return how many tokens processes may still reserve; None = any number."""
        limit = self.limit(gcm_limit)
        if limit is None:
            return None
        return 0 if self.restored else max(0, limit - self.used)

    def state(self, gcm_limit: int, due_at: float) -> BudgetState:
        """Judge the budget; `due_at` is the share of the limit from which rotation is due."""
        limit = self.limit(gcm_limit)
        if limit is None:
            return BudgetState.UNLIMITED
        if self.restored:
            return BudgetState.RESTORED
        if self.used >= limit:
            return BudgetState.EXHAUSTED
        return BudgetState.DUE if self.used >= due_at * limit else BudgetState.OK

    def reserving(self, want: int, gcm_limit: int) -> tuple[Budget, int]:
        """Return the budget with up to `want` more tokens reserved, and their number (0 = none left)."""
        left = self.left(gcm_limit)
        granted = want if left is None else min(want, left)
        return replace(self, reserved=self.reserved + granted), granted

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        sights = None
        if self.sights is not None:
            sights = {name: [sight.revision, sight.versions, sight.swaps] for name, sight in self.sights.items()}
        return {
            "fingerprint": self.fingerprint,
            "provider": self.provider,
            "names": list(self.names),
            "reserved": self.reserved,
            "committed": sum(own.count for own in self.own.values()),
            "estimated": self.estimated,
            "restored": self.restored,
            "cluster_id": str(self.made_in.cluster_id),  # as text: many JSON readers round 64-bit numbers
            "log_lead": self.made_in.lead,
            "accepted": self.accepted,
            "born": self.born,
            "watched": self.watched,
            "sights": sights,
            "own": {
                resource: [own.seen, own.last_seen, *([one.count, one.first, one.last] for one in own.landed)]
                for resource, own in self.own.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Budget:
        """Read the JSON form. Raises ValueError when a count is missing: no count has a default."""
        fields = Fields.of(value)
        budget = cls(
            fingerprint=fields.text("fingerprint"),
            provider=fields.text("provider"),
            names=fields.texts("names"),
            reserved=fields.count("reserved"),
            estimated=fields.count("estimated"),
            restored=fields.flag("restored"),
            made_in=Mark(fields.one("cluster_id", _cluster_id), fields.count("log_lead", -MOST)),
            accepted=fields.count("accepted"),
        )
        if fields.has("observed") and not {"born", "sights", "own"} & set(value):
            # A record from before resources were distinguished: it subtracts its total of our swaps, as it did then.
            return replace(budget, sights=None, own={"": Own(fields.count("committed"))})
        if "sights" not in value:
            raise ValueError("sights is missing")
        return replace(
            budget,
            sights=_by_resource(value["sights"], _sight) if fields.has("sights") else None,
            born=fields.count("born"),
            own=_by_resource(value.get("own"), _own),
            watched=fields.flag("watched"),
        )


def _cluster_id(value: object) -> int:
    return int(matching(value, "cluster_id", _DIGITS))


def _by_resource(value: object, read: Callable[[object], T]) -> dict[str, T]:
    return {text_of(name, "a resource"): read(one) for name, one in mapping_of(value, "it by resource").items()}


def _sight(value: object) -> Sight:
    what = "a first sight"
    revision, versions, swaps = members_of(value, what, 3)
    return Sight(
        count_of(revision, what), None if versions is None else count_of(versions, what), count_of(swaps, what)
    )


def _own(value: object) -> Own:
    seen, last, *landed = list_of(value, "our swaps", 100)
    return Own(count_of(seen, "our swaps"), count_of(last, "our swaps"), tuple(map(_landed, landed)))


def _landed(value: object) -> Landed:
    count, first, last = (count_of(one, "our swaps") for one in members_of(value, "our swaps", 3))
    return Landed(count, first, last)
