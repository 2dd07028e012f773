"""How far a campaign is, and how fast it goes: from its batches' records, and logged periodically.

Not handled: the bar of `rewrap run` (`cli.progress`), and `campaign show`, which reads the records itself.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from kube_rewrap.worker.records.batch import BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.report import NOTHING, BatchReport

_RATE_SECONDS = 60.0
_log = structlog.get_logger()


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


Watcher = Callable[[Campaign, Standing], None]


def processed(batch: Checkpoint, sweeps: int) -> int:
    """Return how many objects a batch has processed in the present sweep of a campaign of `sweeps` sweeps.

    A later sweep keeps the counts of objects that are rewritten or gone (`BatchReport.before_sweep`), so that the few
    that it rewrites itself can't be told from them, and are left out.
    """
    if batch.spec.sweep < sweeps:
        return 0
    return batch.report.objects if sweeps == 1 else batch.report.current + batch.report.quarantined


class Progress:
    """Receives every standing; logs `campaign.progress` every `seconds`."""

    def __init__(self, seconds: float, outdated: set[str]) -> None:
        """`outdated` are the workers that were logged before; the set outlives a campaign."""
        self._seconds = seconds
        self._outdated = outdated
        self._logged_at = time.monotonic()
        self._lately: deque[tuple[float, Standing]] = deque()
        self.standing = Standing()

    def handed_back(self, handbacks: Iterable[Handback]) -> None:
        """Log once for each worker that it holds another configuration, and does not help."""
        for other in sorted({str(one) for one in handbacks} - self._outdated):
            _log.warning("worker.outdated", because=other)
            self._outdated.add(other)

    def watch(self, campaign: Campaign, standing: Standing) -> None:
        """See Watcher. Logs the progress if `seconds` have passed since the last time; never while paused."""
        now = time.monotonic()
        self.standing = standing
        if campaign.state is CampaignState.PAUSED:
            self._lately.clear()
            self._logged_at = now  # its pause was logged
            return
        self._lately.append((now, standing))
        while now - self._lately[0][0] > _RATE_SECONDS:
            self._lately.popleft()
        if now - self._logged_at >= self._seconds:
            self._logged_at = now
            self._log(campaign)

    @property
    def rate(self) -> float:
        """Objects rewritten a second in the last minute, or since this process began to watch, or since a pause."""
        return self._a_second(lambda standing: standing.report.rewritten)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the last batch is done, at the rate of the last minute; None if unknown."""
        objects = self._a_second(lambda standing: standing.done)
        return self.standing.left / objects if objects and self.standing.left else None

    def _a_second(self, count: Callable[[Standing], int]) -> float:
        if not self._lately:
            return 0.0
        (began, first), (now, last) = self._lately[0], self._lately[-1]
        return max(0, count(last) - count(first)) / max(0.001, now - began)

    def _log(self, campaign: Campaign) -> None:
        standing, eta = self.standing, self.seconds_left
        _log.info(
            "campaign.progress",
            **campaign.log_context(),
            done=standing.done,
            total=standing.total,
            percent=standing.percent,
            eta_seconds=None if eta is None else math.ceil(eta),
            rate=round(self.rate, 1),
            batches_left=standing.batches_left,
            batches=campaign.batches,
            **standing.report.to_json(),
            because=campaign.because,
        )
