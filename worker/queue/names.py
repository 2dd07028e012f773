"""Stable names of queues and tasks: the interface for senders of messages (docs/queue.md)."""

from __future__ import annotations

from kube_rewrap.worker.records.request import RequestKind

BATCHES = "rewrap.batches"
CONTROL = "rewrap.control"
EXCHANGE = "rewrap"

REWRITE = "rewrap.batch.rewrite"
PROVE = "rewrap.batch.prove"


def control_task(kind: RequestKind) -> str:
    """Return the name of the task that carries a request of this kind."""
    return f"rewrap.campaign.{kind.value}"


CONTROL_TASKS = tuple(control_task(kind) for kind in RequestKind)
