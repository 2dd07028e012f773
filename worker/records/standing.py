"""How far a campaign is, by its batches' records; log, metrics, `campaign show` and `top` take it from here. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kube_rewrap.worker.records.batch import BatchState, Checkpoint
from kube_rewrap.worker.records.report import NOTHING, BatchReport


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a campaign is in its present sweep.

    `report` is the sum of its batches' reports, `done` the objects processed. `left` estimates the objects that its
    open batches have not processed, by the counts of the plan; `batches_left` is the number of these batches, without
    parked ones.
    """

    report: BatchReport = NOTHING
    done: int = 0
    left: int = 0
    batches_left: int = 0

    @classmethod
    def of(cls, batches: Iterable[Checkpoint], sweeps: int) -> Standing:
        """Return the standing of a campaign of `sweeps` sweeps with these batches."""
        known, ended = tuple(batches), {BatchState.DONE, BatchState.PARKED}
        open_ = [one for one in known if one.spec.sweep < sweeps or one.state not in ended]
        return cls(
            BatchReport.total(one.report for one in known),
            sum(processed(one, sweeps) for one in known),
            sum(max(0, one.spec.objects - processed(one, sweeps)) for one in open_),
            len(open_),
        )

    @property
    def total(self) -> int:
        """Objects processed and to process."""
        return self.done + self.left

    @property
    def percent(self) -> float:
        """The share of `total` that is processed; 100 only when no batch is left."""
        if not self.batches_left:
            return 100.0
        return min(99.9, math.floor(1000 * self.done / self.total) / 10) if self.total else 0.0


def processed(batch: Checkpoint, sweeps: int) -> int:
    """Return how many objects a batch has processed in the present sweep of a campaign of `sweeps` sweeps.

    A later sweep keeps the counts of objects that are rewritten or gone (`BatchReport.before_sweep`), so that the few
    that it rewrites itself can't be told from them, and are left out.
    """
    if batch.spec.sweep < sweeps:
        return 0
    return batch.report.objects if sweeps == 1 else batch.report.current + batch.report.quarantined
