"""How fast a campaign goes: from its standings, and logged periodically.

Not handled: the bar of `rewrap run` (`cli.progress`), and `campaign show`, which reads the records itself.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

import structlog

from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.standing import Standing

_RATE_SECONDS = 60.0
_log = structlog.get_logger()


Watcher = Callable[[Campaign, Standing], None]


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
