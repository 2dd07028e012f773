"""Names of queues and tasks: the interface of whoever sends messages (docs/queue.md). They don't change."""

from __future__ import annotations

from kube_rewrap.worker.records.request import RequestKind

BATCHES = "rewrap.batches"
CONTROL = "rewrap.control"
EXCHANGE = "rewrap"

REWRITE = "rewrap.batch.rewrite"
PROVE = "rewrap.batch.prove"


def control_task(kind: RequestKind) -> str:
    """Return the task that carries a request."""
    return f"rewrap.campaign.{kind.value}"


CONTROL_TASKS = tuple(control_task(kind) for kind in RequestKind)
