"""One object in quarantine: a worker did not rewrap it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kube_rewrap.worker.records.form import Count, Form, Key, Text, read
from kube_rewrap.worker.verdict import Reason, recorded_reason

KEPT = 4_000
"""Quarantine records of a campaign. Concurrent batches may exceed it by some tens each."""


@dataclass(frozen=True, slots=True)
class QuarantinedObject(Form):
    """One object: its etcd key, the reason, a sentence of detail, and the mod_revision that the worker read."""

    key: Key
    reason: Reason
    detail: Text
    mod_revision: Count

    @classmethod
    def from_json(cls, value: object) -> QuarantinedObject:
        """Read the JSON form; see `recorded_reason`. Raises ValueError if `value` is not one."""
        found = read(cls, value)
        reason, detail = recorded_reason(found.reason, found.detail)
        return replace(found, reason=reason, detail=detail)
