"""The write budget of a key: arithmetic only.

AES-GCM with random nonces wears out with every encryption, whoever makes it and whether or not the
result is kept (NIST SP 800-38D 8.3). A budget belongs to key material, named by its fingerprint::

    used = reserved + estimated + max(0, observed - committed)

Lag, crashes, lost swaps and foreign writers all make `used` too large, never too small.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.model.fields import MOST, Fields, matching
from worker.model.verdict import KeyRef

_DIGITS = re.compile(r"[0-9]{1,20}")  # of a number of 64 bits

LIMITED_PROVIDER = "aesgcm"
"""Only aesgcm has a limit: secretbox' nonces are long enough, aescbc's weakness is another one."""


def restored_text(key: KeyRef) -> str:
    """Say what a restored budget means, and the ways out."""
    return (
        f"how often {key} has encrypted is not known: etcd was restored from a backup, or the key's write budget went "
        f"backwards. Rotate to a new key, or accept it: rewrap keys --accept {key.fingerprint}"
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """In which store a record was made: etcd's cluster id, and the lead of its raft log over its revision.

    `lead` is the least that it can have been; see `worker.state.lineage`.
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
class Budget:
    """Counts of encryptions under one key.

    `reserved`: tokens handed out to our processes. `committed`: what our swaps landed. `observed`:
    what a watch saw anyone write. `estimated`: writes from before the first sight of the key, taken
    from the versions of the objects found under it. `restored`: etcd was restored from a backup, what the
    key encrypted after that was made is on no record, and an operator has not accepted it yet.
    `made_in` is the store in which the record was last known to be complete, `accepted` how often an
    operator took it as it was.
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

    @property
    def used(self) -> int:
        """Encryptions under the key so far, at the least."""
        return self.reserved + self.estimated + max(0, self.observed - self.committed)

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
        return {
            "fingerprint": self.fingerprint,
            "provider": self.provider,
            "names": list(self.names),
            "reserved": self.reserved,
            "committed": self.committed,
            "observed": self.observed,
            "estimated": self.estimated,
            "restored": self.restored,
            "cluster_id": str(self.made_in.cluster_id),  # 64 bits do not survive every JSON reader
            "log_lead": self.made_in.lead,
            "accepted": self.accepted,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Budget:
        """Read the JSON form. Raises ValueError where a count is missing: a budget is never guessed."""
        fields = Fields.of(value)
        return cls(
            fields.text("fingerprint"),
            fields.text("provider"),
            fields.texts("names"),
            fields.count("reserved"),
            fields.count("committed"),
            fields.count("observed"),
            fields.count("estimated"),
            fields.flag("restored"),
            Mark(fields.one("cluster_id", _cluster_id), fields.count("log_lead", -MOST)),
            fields.count("accepted"),
        )


def _cluster_id(value: object) -> int:
    return int(matching(value, "cluster_id", _DIGITS))
