"""What the reconcile loop asks of whoever does the work. Facts come back through records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kube_rewrap.worker.records.batch import BatchSpec


class Dispatcher(Protocol):
    """Takes batches, no more than fit, and says when it is worth looking at the records again."""

    async def offer(self, batches: Sequence[BatchSpec], owned: frozenset[int]) -> None:
        """Take as many of the batches as there is room for; those that it was offered lately may be among them.

        `owned` are the batches of the campaign at which somebody works.
        """

    async def wait(self, seconds: float) -> None:
        """Return when something may have changed, at the latest after `seconds`.

        Raises what stopped the work where this process does it.
        """
