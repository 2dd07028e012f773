"""Logs the progress of a campaign periodically."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.report import BatchReport

_log = structlog.get_logger()


class Progress:
    """Receives every report; logs `campaign.progress` every `seconds`."""

    def __init__(self, seconds: float, outdated: set[str]) -> None:
        """`outdated` are the workers that were logged before; the set outlives a campaign."""
        self._seconds = seconds
        self._outdated = outdated
        self._began = self._logged_at = time.monotonic()
        self._first: BatchReport | None = None
        self.report = BatchReport()
        self.batches_left = 0

    def handed_back(self, handbacks: Iterable[Handback]) -> None:
        """Log once for each worker that it holds another configuration, and does not help."""
        for other in sorted({str(one) for one in handbacks} - self._outdated):
            _log.warning("worker.outdated", because=other)
            self._outdated.add(other)

    def watch(self, report: BatchReport, batches_left: int) -> None:
        """See Watcher."""
        self._first = self._first or report
        self.report = report
        self.batches_left = batches_left

    @property
    def rate(self) -> float:
        """Objects rewritten a second since this process began to watch the campaign."""
        rewritten = self.report.since(self._first or BatchReport()).rewritten
        return rewritten / max(0.001, time.monotonic() - self._began)

    def log_if_due(self, campaign: Campaign) -> None:
        """Log the progress if `seconds` have passed since the last time; never while paused."""
        now = time.monotonic()
        if campaign.state is CampaignState.PAUSED:
            self._logged_at = now  # its pause was logged
        if now - self._logged_at < self._seconds:
            return
        self._logged_at = now
        _log.info(
            "campaign.progress",
            **campaign.log_context(),
            **self.report.to_json(),
            batches_left=self.batches_left,
            batches=campaign.batches,
            rate=round(self.rate, 1),
            because=campaign.because,
        )
