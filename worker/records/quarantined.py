"""One object in quarantine: a worker did not rewrap it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.verdict import Reason, recorded_reason

KEPT = 4_000
"""Quarantine records of a campaign. Concurrent batches may exceed it by some tens each."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object: its etcd key, the reason, a sentence of detail, and the mod_revision that the worker read."""

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
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        reason, detail = recorded_reason(fields.text("reason"), fields.text("detail"))
        return cls(fields.key("key"), reason, detail, fields.count("mod_revision"))
