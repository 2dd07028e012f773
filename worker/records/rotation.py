"""A rotation: a new key replaces the primary key in the file, in every kube-apiserver, and in etcd."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from kube_rewrap.worker.records.form import Count, Form, Later, Moment, Name, Named, Text
from kube_rewrap.worker.records.proof_counts import ProofCounts
from kube_rewrap.worker.verdict import KeyRef


class RotationStep(StrEnum):
    """The step at which a rotation is. The values are stable: records, logs and JSON contain them."""

    ADD = "add"
    """Add the new key to the file, as a key that reads."""
    SPREAD = "spread"
    """Wait until every kube-apiserver has loaded it."""
    PROMOTE = "promote"
    """Move the new key to the first place in the file: it becomes the key that writes."""
    SWITCH = "switch"
    """Wait until every kube-apiserver has loaded that."""
    REWRAP = "rewrap"
    """A campaign rewrites the objects under other keys."""
    PROVE = "prove"
    """Check all kube-apiservers once more; then a scan has to find no object under the old keys."""
    COMPACT = "compact"
    """Wait until etcd has compacted the last revision that held objects under the old keys."""
    PRUNE = "prune"
    """Remove the old keys from the file."""
    CONVERGE = "converge"
    """Wait until every kube-apiserver has loaded that."""
    WITHDRAW = "withdraw"
    """An operator aborted the rotation before the new key could write: remove that key from the file again."""
    RETURN = "return"
    """Wait until every kube-apiserver has loaded that."""
    DONE = "done"
    ABORTED = "aborted"

    @classmethod
    def _missing_(cls, value: object) -> RotationStep | None:
        """Read the name in version 0.1 of a step."""
        return cls.CONVERGE if value == "settle" else None

    @property
    def is_end(self) -> bool:
        """Whether the step is final."""
        return self in {RotationStep.DONE, RotationStep.ABORTED}

    @property
    def is_edit(self) -> bool:
        """Whether the step changes the file."""
        return self in {RotationStep.ADD, RotationStep.PROMOTE, RotationStep.PRUNE, RotationStep.WITHDRAW}


_MOST_PASSED = 100
"""Steps that a record keeps; a rotation that keeps going back to earlier steps must not outgrow etcd's limit."""


@dataclass(frozen=True, slots=True)
class Passed(Form):
    """One step that the rotation passed, when (ISO 8601, UTC) and why."""

    step: RotationStep
    at: Moment
    because: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation(Form):
    """One rotation's record. It holds no key material.

    `entries` are indexes into the file's `resources`; `retired` are the keys that were primary there. `file` is the
    hash that the file must have; in a step that edits the file, `edited` is the hash after the edit, "" before the
    edit is prepared. `held` is why the rotation is held: an operator paused it, or the file changed otherwise; "" = it
    is not held. `stanza` is the hash of the KMS provider to add, as the operator wrote it; "" = the new key is no KMS
    provider. `waits` is what the last check of this step found missing. `proof_revision` is the revision of the
    last clean scan, 0 before the first; `proof_counts` is what that scan counted, None in older records.
    """

    id: Name
    step: RotationStep
    because: Text
    entries: tuple[Count, ...]
    resources: tuple[Text, ...]
    provider: Text
    key_name: Annotated[Text, Named("key")]
    retired: tuple[KeyRef, ...]
    file: Text
    edited: Text = ""
    fingerprint: Text = ""
    by_hand: bool = False
    prune: bool = False
    held: Text = ""
    proof_revision: Count = 0
    passed: tuple[Passed, ...] = ()
    waits: Text = ""
    stanza: Later[Text] = ""
    proof_counts: Later[ProofCounts | None] = None

    @property
    def began_at(self) -> datetime | None:
        """When the rotation began, by the time in its id; None for an id without one."""
        try:
            return datetime.strptime(self.id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            return None

    @property
    def step_began_at(self) -> datetime | None:
        """When the rotation began its step; None if unknown."""
        return datetime.fromisoformat(self.passed[-1].at) if self.passed else self.began_at

    @property
    def new_keys(self) -> tuple[KeyRef, ...]:
        """The new key; for KMS a provider for each entry, since one can't serve two.

        A key has no fingerprint before the step `add`, a KMS provider has none here at all: its KEK may change.
        """
        if not self.stanza:
            return (KeyRef(self.provider, self.key_name, self.fingerprint),)
        return tuple(KeyRef(self.provider, self.name_in(entry), self.fingerprint) for entry in self.entries)

    def name_in(self, entry: int) -> str:
        """Return the new key's name in an entry: that of a KMS provider gets a number in all but the first one."""
        place = self.entries.index(entry)
        return f"{self.key_name}-{place + 1}" if self.stanza and place else self.key_name

    @property
    def is_withdrawn(self) -> bool:
        """Whether the rotation was aborted, with its new key gone from the file and from every kube-apiserver."""
        return self.step is RotationStep.ABORTED and bool(self.passed) and self.passed[-1].step is RotationStep.RETURN

    def at(self, step: RotationStep, because: str, now: str) -> Rotation:
        """Return the rotation at its next step; if this one edited the file, the edited hash becomes `file`."""
        passed = (*self.passed, Passed(self.step, now, because))[-_MOST_PASSED:]
        file = self.edited or self.file
        return replace(self, step=step, because=because, passed=passed, file=file, edited="", waits="")

    def log_context(self) -> dict[str, object]:
        """Return the fields that every log line about this rotation carries."""
        return {"rotation": self.id, "step": self.step.value, "key": self.key_name, "provider": self.provider}
