"""Reports the end of a campaign in log and audit log; raises the alarm about a quarantine that grew."""

from __future__ import annotations

import structlog

from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.batch import quarantined_by
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.report import BatchReport

_NAMED = 100
"""Most quarantined objects that the log names at the end of a campaign: enough to see a pattern."""

_log = structlog.get_logger()


async def report_end(cluster: Cluster, ended: Campaign, report: BatchReport) -> None:
    """Log how a campaign ended and what it quarantined; add to the audit log unless it was a repair."""
    is_complete = ended.state is CampaignState.COMPLETE
    if report.quarantined and not is_complete:
        await _log_quarantined(cluster.engine, ended)
    if report.fresh > MOST_FRESH:
        await alarm(
            cluster.audit, ended, f"{report.fresh} objects that no key opens were written since the last campaign"
        )
    level = _log.info if is_complete else _log.warning
    level(
        "campaign.finished",
        **ended.log_context(),
        **report.to_json(),
        seconds=ended.seconds,
        because=ended.because,
    )
    if not ended.options.repair:
        await cluster.audit.append(
            "campaign.finished",
            ended.id,
            state=ended.state.value,
            rewritten=report.rewritten,
            proof_revision=ended.proof_revision,
            **_counts(ended),
            because=ended.because,
        )


def _counts(ended: Campaign) -> dict[str, int]:
    """Return the sums of the proof; the audit log's chain of hashes protects them, as it does not the record's."""
    found = ended.proof_counts
    return {"objects": found.objects, "stale": found.stale, "unreadable": found.unreadable} if found else {}


async def sum_reports(checkpoints: Checkpoints, campaign: str) -> BatchReport:
    """Return the sum of the recorded reports of a campaign's batches."""
    return BatchReport.total([one.value.report async for one in checkpoints.all(campaign)])


async def alarm(audit: AuditLog, campaign: Campaign, because: str) -> None:
    """Raise the alarm `quarantine.grew` in log and audit log: many new objects that no key opens."""
    _log.error("quarantine.grew", **campaign.log_context(), because=because)
    await audit.append("quarantine.grew", campaign.id, state=campaign.state.value, because=because)


async def _log_quarantined(engine: Engine, ended: Campaign) -> None:
    """Log up to `_NAMED` quarantined objects, and the count of all by resource and reason."""
    for one in await QuarantineRecords(engine.store, engine.keyspace, ended.id).some(_NAMED):
        fields = {"key": key_text(one.key), "reason": one.reason.value, "because": one.detail}
        _log.info("object.quarantined", campaign=ended.id, **fields)
    batches = [one.value async for one in Checkpoints(engine.store, engine.keyspace).all(ended.id)]
    for (resource, reason), count in quarantined_by(batches).items():
        fields = {"resource": resource, "reason": reason.value, "because": f"{count} objects were left alone"}
        _log.warning("campaign.quarantined", campaign=ended.id, objects=count, **fields)
