"""A rotation: one key takes the place of another, in the file, in every kube-apiserver, and in etcd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.worker.fields import Fields, count_of
from kube_rewrap.worker.verdict import KeyRef


class RotationStep(StrEnum):
    """What a rotation is at. The values are stable: they stand in records, logs and JSON."""

    ADD = "add"
    """The new key is to be added to the file, to read with."""
    SPREAD = "spread"
    """Every kube-apiserver has to load it."""
    PROMOTE = "promote"
    """It is to become the first key: the one that writes."""
    SWITCH = "switch"
    """Every kube-apiserver has to load that."""
    REWRAP = "rewrap"
    """A campaign rewrites what is under other keys."""
    PROVE = "prove"
    """All kube-apiservers are asked once more, and then a scan has to find nothing under the old keys."""
    COMPACT = "compact"
    """etcd has to compact past the last revision that held them."""
    PRUNE = "prune"
    """The old keys are to be removed from the file."""
    SETTLE = "settle"
    """Every kube-apiserver has to load that."""
    WITHDRAW = "withdraw"
    """An operator gave the rotation up before the new key could write: it is to be removed from the file again."""
    RETURN = "return"
    """Every kube-apiserver has to load that."""
    DONE = "done"
    ABORTED = "aborted"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens."""
        return self in {RotationStep.DONE, RotationStep.ABORTED}

    @property
    def is_edit(self) -> bool:
        """Whether the step changes the file."""
        return self in {RotationStep.ADD, RotationStep.PROMOTE, RotationStep.PRUNE, RotationStep.WITHDRAW}


_MOST_PASSED = 100
"""Steps that a record keeps; one that goes back again and again must not outgrow what etcd takes."""


@dataclass(frozen=True, slots=True)
class Passed:
    """One step that was passed, when (ISO 8601, UTC) and why."""

    step: RotationStep
    at: str
    because: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation's record. It holds no key material.

    `entries` are indexes into the file's `resources`; `retired` are the keys that were primary there.
    `file` is the hash of the file that is to be found; in a step that edits, `edited` is the hash that
    the edit leads to, "" before it was prepared. `held` says why it rests: an operator's pause, or the
    file was edited by hand; "" = it does not. `waits` is what was last found missing at this step.
    `proof_revision` is that of the last clean scan, 0 before.
    """

    id: str
    step: RotationStep
    because: str
    entries: tuple[int, ...]
    resources: tuple[str, ...]
    provider: str
    key_name: str
    retired: tuple[KeyRef, ...]
    file: str
    edited: str = ""
    fingerprint: str = ""
    by_hand: bool = False
    prune: bool = False
    held: str = ""
    proof_revision: int = 0
    passed: tuple[Passed, ...] = ()
    waits: str = ""

    @property
    def is_withdrawn(self) -> bool:
        """Whether it ended with its new key gone from the file, and from every kube-apiserver."""
        return self.step is RotationStep.ABORTED and bool(self.passed) and self.passed[-1].step is RotationStep.RETURN

    def at(self, step: RotationStep, because: str, now: str) -> Rotation:
        """Return the rotation at its next step; what was prepared for this one is over."""
        passed = (*self.passed, Passed(self.step, now, because))[-_MOST_PASSED:]
        file = self.edited or self.file
        return replace(self, step=step, because=because, passed=passed, file=file, edited="", waits="")

    def log_context(self) -> dict[str, object]:
        """Return the fields that every log line about this rotation carries."""
        return {"rotation": self.id, "step": self.step.value, "key": self.key_name, "provider": self.provider}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "id": self.id,
            "step": self.step.value,
            "because": self.because,
            "entries": list(self.entries),
            "resources": list(self.resources),
            "provider": self.provider,
            "key": self.key_name,
            "retired": [key.to_json() for key in self.retired],
            "file": self.file,
            "edited": self.edited,
            "fingerprint": self.fingerprint,
            "by_hand": self.by_hand,
            "prune": self.prune,
            "held": self.held,
            "proof_revision": self.proof_revision,
            "waits": self.waits,
            "passed": [{"step": one.step.value, "at": one.at, "because": one.because} for one in self.passed],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Rotation:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        return cls(
            fields.name("id"),
            fields.choice("step", RotationStep),
            fields.text("because"),
            fields.each("entries", lambda one: count_of(one, "an entry")),
            fields.texts("resources"),
            fields.text("provider"),
            fields.text("key"),
            fields.each("retired", KeyRef.from_json),
            fields.text("file"),
            fields.text("edited"),
            fields.text("fingerprint"),
            fields.flag("by_hand"),
            fields.flag("prune"),
            fields.text("held"),
            fields.count("proof_revision"),
            fields.each("passed", _passed),
            fields.text("waits"),
        )


def _passed(value: object) -> Passed:
    fields = Fields.of(value)
    return Passed(fields.choice("step", RotationStep), fields.moment("at"), fields.text("because"))
