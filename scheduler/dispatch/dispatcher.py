"""What the reconcile loop asks of whoever does the work. Facts come back through records only."""

from __future__ import annotations

from typing import Protocol

from worker.model.batch import BatchSpec


class Dispatcher(Protocol):
    """Takes batches, no more than fit, and says when it is worth looking at the records again."""

    def offer(self, batch: BatchSpec) -> bool:
        """Take a batch if there is room and it is not at work already; False = not now, look on."""

    async def wait(self, seconds: float) -> None:
        """Return when something may have changed, at the latest after `seconds`.

        Raises what stopped the work where this process does it.
        """
