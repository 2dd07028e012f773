"""One object that was left alone, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.verdict import Reason, recorded_reason

KEPT = 4_000
"""Objects of a campaign that are named. Batches side by side may name some tens more than that each."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object: its etcd key, the reason, a sentence about it, and the version that was looked at."""

    key: bytes
    reason: Reason
    detail: str
    mod_revision: int

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "key": key_text(self.key),
            "reason": self.reason.value,
            "detail": self.detail,
            "mod_revision": self.mod_revision,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Quarantined:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        reason, detail = recorded_reason(fields.text("reason"), fields.text("detail"))
        return cls(fields.key("key"), reason, detail, fields.count("mod_revision"))
