"""What scheduler and worker tell Prometheus: each value by its name, nothing that is not known, docs that are true."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.queue.metrics import WorkerMetrics
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, Scope
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.scan import Scan, UnreadableCount
from kube_rewrap.worker.verdict import Reason

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
REPORT = BatchReport(10, 4, 3, 2, 1, 1, 5, 6, 7, 800)
ENDS = {"rewritten": 4, "current": 3, "gone": 2, "quarantined": 1}
_SPEC = BatchSpec("c", 0, "secrets", KeyRange.of_prefix(b"/registry/secrets/"), "sha256:0")
BATCHES = [
    Checkpoint(_SPEC, state) for state in (BatchState.DONE, BatchState.PENDING, BatchState.PARKED, BatchState.PENDING)
]
KEYS = {
    "a" * 16: Budget("a" * 16, "aesgcm", reserved=70, committed=20, observed=50),
    "b" * 16: Budget("b" * 16, "secretbox", reserved=5),
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def campaign(state: CampaignState = CampaignState.RUNNING) -> Campaign:
    return Campaign("c", state, "sha256:0", Scope(("secrets",)), 1, "2026-01-01T00:00:00+00:00", "why")


def scan(stale: int, at: float = 1_000.0, proven_at: float = 0.0, generation: str = "sha256:0") -> Scan:
    """A scan of everything; with nothing stale and no proof before it, it is one."""
    unreadable = (UnreadableCount("secrets", Reason.NO_SUCH_KEY, 2),)
    return Scan(generation, 7, at, 9, stale, is_clean=not stale, proven_at=proven_at or at, unreadable=unreadable)


def shown(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample as it is scraped, by name and labels."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def starting(prefix: str, samples: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in samples.items() if name.startswith(prefix)}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def everything(registry: CollectorRegistry) -> None:
    """Sets all that there is to set."""
    scheduler = SchedulerMetrics(registry)
    scheduler.leads(leads=True)
    scheduler.configured("sha256:0")
    scheduler.queue(is_available=True)
    scheduler.campaign(campaign(), REPORT, BATCHES, 12.5, whole=True)
    scheduler.scanned(scan(0))
    scheduler.lags(4)
    scheduler.observed(7, 2)
    scheduler.budgets(KEYS, 100, 0.8)
    WorkerMetrics(registry, 500.0).count({"outcome": "worked", "report": REPORT.to_json(), "window": 32})


# --------------------------------------------------------------------------------------------------------- scheduler


def test_a_scheduler_that_knows_nothing_claims_nothing(registry: CollectorRegistry) -> None:
    SchedulerMetrics(registry, wall=lambda: 5.0)
    assert shown(registry) == {
        "kube_rewrap_is_leader": 0.0,
        "kube_rewrap_last_tick_timestamp_seconds": 5.0,
        "kube_rewrap_drift_found_total": 0.0,
    }


def test_what_a_leader_knows_is_shown(registry: CollectorRegistry) -> None:
    wall = Clock()
    metrics = SchedulerMetrics(registry, wall=wall)
    metrics.leads(leads=True)
    metrics.configured("sha256:1")
    metrics.configured("sha256:0")
    metrics.queue(is_available=False)
    metrics.campaign(campaign(CampaignState.INCOMPLETE), REPORT, (), 0.0, whole=False)
    metrics.campaign(campaign(), REPORT, BATCHES, 12.5, whole=True)
    metrics.drifted()
    metrics.drifted()
    metrics.lags(4)
    metrics.observed(7, 2)
    wall.now += 30
    metrics.scanned(scan(8, at=1_020.0, proven_at=1_000.0))
    metrics.ticked()
    assert shown(registry) == {
        "kube_rewrap_is_leader": 1.0,
        "kube_rewrap_configuration_info generation=sha256:0": 1.0,
        "kube_rewrap_queue_available": 0.0,
        "kube_rewrap_last_tick_timestamp_seconds": 1_030.0,
        "kube_rewrap_drift_found_total": 2.0,
        "kube_rewrap_watch_lag_revisions": 4.0,
        "kube_rewrap_observed_until_revision": 7.0,
        "kube_rewrap_revisions_since_observed": 2.0,
        "kube_rewrap_stale_objects": 8.0,
        "kube_rewrap_unreadable_objects reason=no_key_of_that_name resource=secrets": 2.0,
        "kube_rewrap_last_scan_age_seconds": 10.0,
        "kube_rewrap_last_proof_age_seconds": 30.0,
        **of_campaign("everything", "running", 3.0, 1.0, 12.5),
        **of_campaign("part", "incomplete", 0.0, 0.0, 0.0),
    }


def of_campaign(scope: str, now: str, left: float, parked: float, rate: float) -> dict[str, float]:
    name = "kube_rewrap_campaign_"
    return {
        **{f"{name}state scope={scope} state={state}": float(state == now) for state in CampaignState},
        **{f"{name}objects outcome={end} scope={scope}": float(count) for end, count in ENDS.items()},
        **{f"{name}paused cause={cause} scope={scope}": 0.0 for cause in Pause},
        f"{name}batches_left scope={scope}": left,
        f"{name}batches_parked scope={scope}": parked,
        f"{name}rate_objects_per_second scope={scope}": rate,
    }


def test_a_figure_of_another_configuration_is_absent(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 1_030.0)
    metrics.configured("sha256:0")
    metrics.campaign(campaign(CampaignState.COMPLETE), REPORT, BATCHES, 12.5, whole=True)
    metrics.scanned(scan(0))
    metrics.proven(replace(campaign(CampaignState.COMPLETE), ended_at="1970-01-01T00:17:00+00:00"))
    assert shown(registry)["kube_rewrap_last_proof_age_seconds"] == 10.0
    metrics.configured("sha256:1")
    # What comes late, or is on record of before, says nothing about this one either.
    metrics.campaign(campaign(CampaignState.COMPLETE), REPORT, BATCHES, 12.5, whole=True)
    metrics.scanned(scan(0))
    metrics.proven(replace(campaign(CampaignState.COMPLETE), ended_at="1970-01-01T00:17:00+00:00"))
    assert shown(registry) == {
        "kube_rewrap_is_leader": 0.0,
        "kube_rewrap_configuration_info generation=sha256:1": 1.0,
        "kube_rewrap_last_tick_timestamp_seconds": 1_030.0,
        "kube_rewrap_drift_found_total": 0.0,
    }


def test_a_campaign_of_a_part_leaves_what_is_shown_of_everything(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    metrics.campaign(campaign(CampaignState.INCOMPLETE), REPORT, BATCHES, 0.0, whole=True)
    before = shown(registry)
    metrics.campaign(campaign(CampaignState.COMPLETE), BatchReport(), (), 0.0, whole=False)
    after = shown(registry)
    assert {name: after[name] for name in before} == before
    assert after["kube_rewrap_campaign_state scope=part state=complete"] == 1.0


def test_a_proof_that_has_yet_to_come_by_another_hosts_clock_is_none(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 1_000.0)
    metrics.configured("sha256:0")
    metrics.scanned(scan(0, at=260_000.0))
    assert "kube_rewrap_last_proof_age_seconds" not in shown(registry)
    assert "kube_rewrap_last_scan_age_seconds" not in shown(registry)


def test_the_age_of_a_proof_grows_from_scrape_to_scrape(registry: CollectorRegistry) -> None:
    wall = Clock()
    metrics = SchedulerMetrics(registry, wall=wall)
    metrics.configured("sha256:0")
    metrics.scanned(scan(0))
    for age in (0.0, 1.5, 90.0):
        wall.now = 1_000.0 + age
        assert shown(registry)["kube_rewrap_last_proof_age_seconds"] == age


def test_a_campaign_is_in_one_state(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    for state in CampaignState:
        metrics.campaign(campaign(state), REPORT, (), 0.0, whole=True)
        states = starting("kube_rewrap_campaign_state scope=everything state=", shown(registry))
        assert [name for name, value in states.items() if value] == [state.value]
        assert len(states) == len(CampaignState)


def test_a_campaign_that_rests_says_for_what(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    metrics.campaign(campaign().paused(Pause.QUARANTINE, "why"), REPORT, (), 0.0, whole=True)
    causes = starting("kube_rewrap_campaign_paused cause=", shown(registry))
    assert causes == {f"{cause.value} scope=everything": float(cause is Pause.QUARANTINE) for cause in Pause}


def test_budgets_are_by_key_and_a_limit_only_where_there_is_one(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.budgets(KEYS, 100, 0.8)
    aesgcm, secretbox = f"fingerprint={'a' * 16} provider=aesgcm", f"fingerprint={'b' * 16} provider=secretbox"
    assert starting("kube_rewrap_key_", shown(registry)) == {
        f"budget_used {aesgcm}": 100.0,
        f"budget_used {secretbox}": 5.0,
        f"budget_limit {aesgcm}": 100.0,
        f"rotation_due {aesgcm}": 1.0,
        f"observed_writes_total {aesgcm}": 50.0,
        f"observed_writes_total {secretbox}": 0.0,
    }
    metrics.budgets({}, 100, 0.8)
    assert starting("kube_rewrap_key_", shown(registry)) == {}


def test_who_no_longer_leads_forgets_what_only_a_leader_knows(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 5.0)
    metrics.leads(leads=True)
    metrics.configured("sha256:0")
    metrics.queue(is_available=True)
    metrics.drifted()
    metrics.campaign(campaign(), REPORT, BATCHES, 12.5, whole=True)
    metrics.scanned(scan(0))
    metrics.lags(4)
    metrics.observed(7, 2)
    metrics.budgets(KEYS, 100, 0.8)
    metrics.leads(leads=False)
    assert shown(registry) == {
        "kube_rewrap_is_leader": 0.0,
        "kube_rewrap_queue_available": 1.0,
        "kube_rewrap_last_tick_timestamp_seconds": 5.0,
        "kube_rewrap_drift_found_total": 1.0,
    }


def test_a_loop_that_does_not_tick_is_not_alive_whatever_the_clock_on_the_wall_does(
    registry: CollectorRegistry,
) -> None:
    wall, steady = Clock(), Clock()
    metrics = SchedulerMetrics(registry, wall, steady)
    wall.now -= 500.0
    steady.now += 60.0
    assert metrics.alive() == ""
    steady.now += 1.0
    assert metrics.alive() == "the loop has not ticked for 61 s"
    metrics.ticked()
    assert metrics.alive() == ""


# ------------------------------------------------------------------------------------------------------------ worker


def test_a_worker_begins_to_count_at_0(registry: CollectorRegistry) -> None:
    WorkerMetrics(registry, 500.0)
    samples = shown(registry)
    assert samples.pop("kube_rewrap_rate_ceiling_objects_per_second") == 500.0
    assert set(samples.values()) == {0.0}
    assert len(samples) == 14


def test_a_worker_adds_up_what_its_children_return(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry, 0.0)
    metrics.count({"outcome": "worked", "report": REPORT.to_json(), "window": 32})
    metrics.count({"outcome": "failed", "report": REPORT.to_json(), "window": 16})
    metrics.count({"outcome": "dropped", "report": BatchReport().to_json(), "window": 0})
    samples = shown(registry)
    assert starting("kube_rewrap_messages_total outcome=", samples) == {
        "worked": 1.0,
        "failed": 1.0,
        "dropped": 1.0,
        "handed_back": 0.0,
        "refused": 0.0,
        "other": 0.0,
    }
    assert starting("kube_rewrap_objects_total outcome=", samples) == {end: 2.0 * count for end, count in ENDS.items()}
    assert samples["kube_rewrap_swap_conflicts_total"] == 10.0
    assert samples["kube_rewrap_swap_unknown_total"] == 12.0
    assert samples["kube_rewrap_encryptions_total"] == 14.0
    assert samples["kube_rewrap_written_bytes_total"] == 1_600.0
    assert samples["kube_rewrap_window_swaps"] == 16.0


@pytest.mark.parametrize(
    "done",
    [{}, {"outcome": "/registry/secrets/default/a"}, {"outcome": ["worked"]}, {"outcome": None, "report": "x"}],
    ids=str,
)
def test_no_text_of_anybody_elses_becomes_a_label(registry: CollectorRegistry, done: dict[str, object]) -> None:
    WorkerMetrics(registry, 0.0).count(done)
    samples = starting("kube_rewrap_messages_total outcome=", shown(registry))
    assert samples == dict.fromkeys(["worked", "dropped", "handed_back", "failed", "refused"], 0.0) | {"other": 1.0}


# -------------------------------------------------------------------------------------------------------------- docs


def test_the_table_in_docs_is_the_registry(registry: CollectorRegistry) -> None:
    row = re.compile(r"^\| `(kube_rewrap_\w+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in row.findall(DOCS.read_text())}
    everything(registry)
    exposed = {
        sample.name: (family.type, set(sample.labels)) for family in registry.collect() for sample in family.samples
    }
    assert told == exposed


def test_names_follow_the_conventions(registry: CollectorRegistry) -> None:
    everything(registry)
    for family in registry.collect():
        for sample in family.samples:
            assert re.fullmatch(r"kube_rewrap_[a-z_]+", sample.name)
            assert sample.name.endswith("_total") == (family.type == "counter")
        assert family.documentation.endswith(".")
