"""The write budget of a key: arithmetic only.

AES-GCM with random nonces wears out with every encryption, whoever makes it and whether or not the
result is kept (NIST SP 800-38D 8.3). A budget belongs to key material, named by its fingerprint::

    used = reserved + estimated + max(0, observed - committed)

`observed` is what a watch saw before the revision that it has reached, whoever wrote; `committed` is
what of it was ours, and counts in `reserved` already. A swap of ours that the watch has yet to see must
not be in `committed`: it would hide a write of somebody else. So swaps are recorded with the revisions
among which they lie. What is recorded late, or never, makes `used` too large, never too small.

`estimated` is what a key encrypted before it was first seen in a resource: once for each resource.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from kube_rewrap.worker.fields import MOST, Fields, count_of, list_of, mapping_of, matching, members_of, text_of
from kube_rewrap.worker.records.inventory import Look
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.verdict import KeyRef

T = TypeVar("T")
_DIGITS = re.compile(r"[0-9]{1,20}")  # of a number of 64 bits

LIMITED_PROVIDER = "aesgcm"
"""Only aesgcm has a limit: secretbox' nonces are long enough, aescbc's weakness is another one."""

_KEPT = 16
"""Intervals of our swaps that are kept apart for each resource."""
_NONE: Mapping[str, int] = {}


_UNCOUNTED = ("identity", "kms")


def has_budget(key: KeyRef) -> bool:
    """Tell whether a key has a write budget: all but identity, which has none, and KMS, whose are elsewhere."""
    return key.provider not in _UNCOUNTED


def restored_text(key: KeyRef) -> str:
    """Say what a restored budget means, and the ways out."""
    return (
        f"how often {key} has encrypted is not known: etcd was restored from a backup, or the key's write budget went "
        f"backwards. Rotate to a new key, or accept it: rewrap keys --accept {key.fingerprint}"
    )


def as_of_text(budget: Budget, revision: int) -> str:
    """Say what others wrote that is in `used`, and in no count, at a revision of the store; "" = nobody observes."""
    if not budget.until:
        return ""
    since = max(0, revision + 1 - budget.until)
    return f", with what others wrote before revision {budget.until} (at most {since} writes since are in no count)"


@dataclass(frozen=True, slots=True)
class Mark:
    """In which store a record was made: etcd's cluster id, and the lead of its raft log over its revision.

    `lead` is the least that it can have been; see `worker.records.lineage`.
    """

    cluster_id: int = 0
    lead: int = 0


class BudgetState(StrEnum):
    """What a budget allows: anything, or something, or nothing more."""

    UNLIMITED = "unlimited"
    OK = "ok"
    DUE = "due"
    EXHAUSTED = "exhausted"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class Landed:
    """How many swaps of ours were applied, each at a revision of its own, and the first and the last of those."""

    count: int
    first: int
    last: int

    def before(self, revision: int) -> int:
        """Return how many were applied before a revision, at the least."""
        return max(0, min(self.count, self.count - (self.last - revision + 1)))

    def since(self, revision: int) -> Landed | None:
        """Return those that were applied at a revision or later, at the least."""
        count = max(0, min(self.count, self.count - (revision - self.first)))
        return Landed(count, max(self.first, revision), self.last) if count else None

    def __add__(self, other: Landed) -> Landed:
        """Put two into one, which says less of where they are."""
        return Landed(self.count + other.count, min(self.first, other.first), max(self.last, other.last))


@dataclass(frozen=True, slots=True)
class Own:
    """Our swaps in one resource: how many the watch has passed for sure, the last of those, and the others."""

    seen: int = 0
    last_seen: int = 0
    landed: tuple[Landed, ...] = ()

    @property
    def count(self) -> int:
        """All of them."""
        return self.seen + sum(one.count for one in self.landed)

    def before(self, revision: int) -> int:
        """Return how many the watch has passed when it has reached a revision, at the least."""
        return self.seen + sum(one.before(revision) for one in self.landed)

    def may_hold(self, landed: Landed) -> bool:
        """Tell whether these swaps may have been added already."""
        return landed.last <= self.last_seen or any(
            one.first <= landed.first and landed.last <= one.last for one in self.landed
        )

    def adding(self, landed: Landed, position: int) -> Own:
        """Return these and more; `position` is where the watch is. Its size is bounded."""
        found = sorted((*self.landed, landed), key=lambda one: one.last)
        passed = [one for one in found if one.last < position] if len(found) > _KEPT else []
        found = found[len(passed) :]
        if len(found) > _KEPT:
            found = [sum(found[1:-_KEPT], found[0]), *found[-_KEPT:]]
        seen, last = sum(one.count for one in passed), max((one.last for one in passed), default=0)
        return Own(self.seen + seen, max(self.last_seen, last), tuple(found))

    def since(self, revision: int) -> Own:
        """Return what a watch can see that begins at a revision: nothing that an earlier one has passed."""
        return replace(self, seen=0, landed=tuple(late for one in self.landed if (late := one.since(revision))))


@dataclass(frozen=True, slots=True)
class Sight:
    """When the objects of a resource were looked at for a key, and the sum of their versions under whatever key.

    `swaps` is how many of ours, under whatever key, were on record in the resource then.
    """

    revision: int
    versions: int | None = None
    swaps: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """Counts of encryptions under one key.

    `reserved`: tokens handed out to our processes. `observed`: what a watch saw anyone write. `committed`:
    what of that was ours, at the least. `estimated`: writes from before the first sight of the key, taken
    from the versions of the objects found under it. `restored`: etcd was restored from a backup, what the
    key encrypted after that was made is on no record, and an operator has not accepted it yet.
    `made_in` is the store in which the record was last known to be complete, `accepted` how often an
    operator took it as it was.

    `sights` has the resources in which the key was looked for; None in a record that does not tell.
    `born` is the revision at which we made the key, which had encrypted nothing anywhere; 0 = not we did.
    `own` are our swaps by resource. `watched`: the observer had a record when this one was last written.
    `observed` and `committed` are as of the revision `until`, before which every write is counted (0 = nobody
    ever watched). These three are no part of the record: see `seen_by`.
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

    # What the watch makes of it.

    def lost_its_watch(self, seen: Observations) -> bool:
        """Tell whether what others wrote was counted once, and is on no record any more."""
        return self.watched and not seen.revision

    def without_its_watch(self) -> Budget:
        """Return the budget after that loss: nobody knows its use until an operator accepts it."""
        return replace(self, restored=True, watched=False, own={})

    def seen_by(self, seen: Observations) -> Budget:
        """Return the budget as of the revision that the watch has reached."""
        committed = sum(own.before(seen.position(resource, self.fingerprint)) for resource, own in self.own.items())
        observed = seen.counts.get(self.fingerprint, 0)
        return replace(self, observed=observed, committed=committed, until=seen.until)

    def begins(self, resource: str) -> int | None:
        """Return from which revision on writes in a resource are to be counted; None = it was never looked at."""
        sight = (self.sights or {}).get(resource)
        if sight is not None:
            return sight.revision + 1
        return self.born + 1 if self.born else None

    def is_to_see(self, resource: str, seen: Observations) -> bool:
        """Tell whether the key's use in a resource is neither counted nor estimated yet."""
        return self.begins(resource) is None and not seen.position(resource, self.fingerprint)

    def sighted(
        self, look: Look, seen: Observations, swaps: Mapping[str, int] = _NONE, again: Collection[str] = ()
    ) -> Budget:
        """Return the budget with an estimate for each resource that was looked at for the first time.

        `swaps` is how many of ours are on record by resource. `again` names resources whose first sight is so
        old that nobody can count what was written since: the versions that came are an estimate of it, but for
        those that are our own swaps since that sight.
        """
        sights, own, estimated = dict(self.sights or {}), dict(self.own), self.estimated
        for resource, versions in look.under(self.fingerprint).items():
            if resource not in again and not self.is_to_see(resource, seen):
                continue
            every = sum(look.versions[resource].values())
            if self.sights is None and not seen.revision:
                pass  # an older record: what it estimated is for all that was there
            elif resource not in again:
                estimated += versions
            elif (before := sights.get(resource)) is not None and before.versions is not None:
                estimated += max(0, every - before.versions - max(0, swaps.get(resource, 0) - before.swaps))
            else:
                estimated += max(0, versions - own.get(resource, Own()).count)
            sights[resource] = Sight(look.revision, every, swaps.get(resource, 0))
            if resource in own:
                own[resource] = own[resource].since(look.revision + 1)
        return replace(self, sights=sights, own=own, estimated=estimated)

    def landing(self, resource: str, landed: Landed, seen: Observations) -> Budget:
        """Return the budget with swaps of ours that were applied."""
        late = landed.since(self.begins(resource) or 0)
        if self.restored or late is None:
            # What landed before a restore is not among what is observed after it, and would hide as much of that.
            return self
        own = self.own.get(resource, Own()).adding(late, seen.position(resource, self.fingerprint))
        return replace(self, own={**self.own, resource: own})

    # What it allows.

    @property
    def used(self) -> int:
        """Encryptions under the key so far, at the least."""
        return self.reserved + self.estimated + max(0, self.observed - self.committed)

    @property
    def estimated_at_most(self) -> int | None:
        """The most that `estimated` stands for; None where nobody looked, or the record does not tell.

        What was deleted before a look is not among the versions that it finds, but each write took a revision.
        """
        if not self.sights and not self.born:
            return None
        return max([self.estimated, *(sight.revision - self.born for sight in (self.sights or {}).values())])

    @property
    def collision_probability(self) -> float | None:
        """Chance that two writes so far shared a nonce (about n^2 / 2^97); None where it does not matter."""
        return self.used**2 / 2**97 if self.provider == LIMITED_PROVIDER else None

    def limit(self, gcm_limit: int) -> int | None:
        """Return the most writes that the key may make; None = no limit."""
        return gcm_limit if self.provider == LIMITED_PROVIDER else None

    def left(self, gcm_limit: int) -> int | None:
        """Return how many tokens may still be reserved; None = any number."""
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
        """Return the budget after up to `want` tokens more, and how many that are (0 = none left)."""
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
            "cluster_id": str(self.made_in.cluster_id),  # 64 bits do not survive every JSON reader
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
        """Read the JSON form. Raises ValueError where a count is missing: a budget is never guessed."""
        fields = Fields.of(value)
        budget = cls(
            fields.text("fingerprint"),
            fields.text("provider"),
            fields.texts("names"),
            fields.count("reserved"),
            estimated=fields.count("estimated"),
            restored=fields.flag("restored"),
            made_in=Mark(fields.one("cluster_id", _cluster_id), fields.count("log_lead", -MOST)),
            accepted=fields.count("accepted"),
        )
        if fields.has("observed") and not {"born", "sights", "own"} & set(value):
            # A record from before resources were told apart subtracts what it always did.
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
