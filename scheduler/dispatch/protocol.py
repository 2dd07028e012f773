"""The interface from the reconcile loop to the workers of batches. Results come back through records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kube_rewrap.worker.records.batch import BatchSpec


class Dispatcher(Protocol):
    """Takes as many batches as fit, and waits until another look at the records is worthwhile."""

    async def offer(self, batches: Sequence[BatchSpec], claimed: frozenset[int]) -> None:
        """Take as many of the batches as there is room for; some may have been offered lately.

        `claimed` are the numbers of the campaign's batches that a worker has claimed.
        """

    async def wait(self, seconds: float) -> None:
        """Return when the records may have changed, at the latest after `seconds`.

        Raises the error that stopped the work, if this process does the work.
        """
