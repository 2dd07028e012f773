"""What scheduler and worker tell Prometheus: each value by its name, nothing that is not known, docs that are true."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kube_rewrap.scheduler.metrics import BackupFigures, SchedulerMetrics
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.kms.counts import CallOutcome, Calls, Method
from kube_rewrap.worker.queue.metrics import WorkerMetrics
from kube_rewrap.worker.queue.plugin_report import PluginReport
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, Scope
from kube_rewrap.worker.records.kek import KekFigures
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.scan import Scan, UnreadableCount
from kube_rewrap.worker.records.standing import Standing
from kube_rewrap.worker.verdict import Reason

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
REPORT = BatchReport(
    objects=10, rewritten=4, current=3, gone=2, quarantined=1, stuck=1, conflicts=5, unknown=6, encryptions=7, bytes=800
)
ENDS = {"rewritten": 4, "current": 3, "gone": 2, "quarantined": 1}
_SPEC = BatchSpec(
    campaign="c", number=0, resource="secrets", range=KeyRange.of_prefix(b"/registry/secrets/"), generation="sha256:0"
)
BATCHES = [
    Checkpoint(spec=_SPEC, state=state, report=report)
    for state, report in (
        (BatchState.DONE, REPORT),
        (BatchState.PENDING, BatchReport()),
        (BatchState.PARKED, BatchReport()),
        (BatchState.PENDING, BatchReport()),
    )
]
KEYS = {
    "a" * 16: Budget(fingerprint="a" * 16, provider="aesgcm", reserved=70, committed=20, observed=50),
    "b" * 16: Budget(fingerprint="b" * 16, provider="secretbox", reserved=5),
}
ROTATION = Rotation(
    id="20260101-120000-abcd",
    step=RotationStep.ADD,
    because="why",
    entries=(0,),
    resources=("secrets",),
    provider="aesgcm",
    key_name="new",
    retired=(),
    file="sha256:0",
)
DECRYPT_OK, DECRYPT_REFUSED = (Method.DECRYPT, CallOutcome.OK), (Method.DECRYPT, CallOutcome.REFUSED)
PLUGIN = PluginReport(
    "cloud",
    "v2",
    calls={DECRYPT_OK: Calls().counted(0.03).counted(20.0), DECRYPT_REFUSED: Calls().counted(0.001)},
    failing=frozenset({Method.DECRYPT}),
    status_age=2.0,
    sources=2,
    seeds=1,
    refused=3,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def campaign(state: CampaignState = CampaignState.RUNNING) -> Campaign:
    return Campaign(
        id="c",
        state=state,
        generation="sha256:0",
        scope=Scope(("secrets",)),
        batches=1,
        planned_at="2026-01-01T00:00:00+00:00",
        because="why",
    )


def scan(stale: int, at: float = 1_000.0, proven_at: float = 0.0, generation: str = "sha256:0") -> Scan:
    """A scan of everything; with nothing stale and no proof before it, it is one."""
    unreadable = (UnreadableCount("secrets", Reason.NO_SUCH_KEY, 2),)
    return Scan(
        generation=generation,
        revision=7,
        at=at,
        objects=9,
        stale=stale,
        is_clean=not stale,
        proven_at=proven_at or at,
        unreadable=unreadable,
    )


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
    scheduler.campaign(campaign(), BATCHES, 12.5, whole=True, seconds_left=3.0)
    scheduler.scanned(scan(0))
    scheduler.lags(4)
    scheduler.observed(7, 2)
    scheduler.budgets(KEYS.values(), 100, [])
    scheduler.rotation(ROTATION)
    scheduler.keks({"cloud": KekFigures(time.time(), time.time())})
    scheduler.backups(BackupFigures(time.time(), 3, 1, 0))
    done = {"outcome": "worked", "report": REPORT.to_json(), "window": 32, "plugins": [PLUGIN.to_json()]}
    WorkerMetrics(registry, 500.0, 2).count(done)


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
    metrics.campaign(campaign(CampaignState.INCOMPLETE), BATCHES[:1], 0.0, whole=False)
    metrics.campaign(campaign(), BATCHES, 12.5, whole=True)
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
        **of_campaign("everything", "running", 2.0, 1.0, 12.5),
        **of_campaign("part", "incomplete", 0.0, 0.0, 0.0),
    }


def of_campaign(scope: str, now: str, left: float, parked: float, rate: float) -> dict[str, float]:
    name = "kube_rewrap_campaign_"
    return {
        **{f"{name}state scope={scope} state={state}": float(state == now) for state in CampaignState},
        **{f"{name}objects outcome={end} scope={scope}": float(count) for end, count in ENDS.items()},
        **{f"{name}paused cause={cause} scope={scope}": 0.0 for cause in Pause},
        f"{name}objects_planned scope={scope}": 10.0,
        f"{name}objects_processed scope={scope}": 10.0,
        f"{name}batches_left scope={scope}": left,
        f"{name}batches_parked scope={scope}": parked,
        f"{name}rate_objects_per_second scope={scope}": rate,
    }


def test_a_figure_of_another_configuration_is_absent(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 1_030.0)
    metrics.configured("sha256:0")
    metrics.campaign(campaign(CampaignState.COMPLETE), BATCHES, 12.5, whole=True)
    metrics.scanned(scan(0))
    metrics.proven(replace(campaign(CampaignState.COMPLETE), ended_at="1970-01-01T00:17:00+00:00"))
    assert shown(registry)["kube_rewrap_last_proof_age_seconds"] == 10.0
    metrics.configured("sha256:1")
    # What comes late, or is on record of before, says nothing about this one either.
    metrics.campaign(campaign(CampaignState.COMPLETE), BATCHES, 12.5, whole=True)
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
    metrics.campaign(campaign(CampaignState.INCOMPLETE), BATCHES, 0.0, whole=True)
    before = shown(registry)
    metrics.campaign(campaign(CampaignState.COMPLETE), (), 0.0, whole=False)
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
        metrics.campaign(campaign(state), (), 0.0, whole=True)
        states = starting("kube_rewrap_campaign_state scope=everything state=", shown(registry))
        assert [name for name, value in states.items() if value] == [state.value]
        assert len(states) == len(CampaignState)


def test_a_campaign_that_rests_says_for_what(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    metrics.campaign(campaign().paused(Pause.QUARANTINE, "why"), (), 0.0, whole=True)
    causes = starting("kube_rewrap_campaign_paused cause=", shown(registry))
    assert causes == {f"{cause.value} scope=everything": float(cause is Pause.QUARANTINE) for cause in Pause}


def test_a_campaign_shows_what_is_done_what_is_left_and_when_it_ends(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    spec = replace(_SPEC, namespaces=(("a", 10), ("b", 30)))
    under_way = Checkpoint(spec=spec, state=BatchState.RUNNING, report=REPORT)
    batches = [under_way, replace(under_way, state=BatchState.DONE), Checkpoint(spec=spec)]
    metrics.campaign(campaign(), batches, 0.0, whole=True, seconds_left=70.5)
    samples = starting("kube_rewrap_campaign_", shown(registry))
    # Ten of 40 in a batch under way, a batch that was planned too large and is done, and one that has not begun.
    assert samples["objects_processed scope=everything"] == 20.0
    assert samples["objects_planned scope=everything"] == 20.0 + 30.0 + 40.0
    assert samples["eta_seconds scope=everything"] == 70.5
    metrics.campaign(campaign().paused(Pause.WINDOW, "why"), batches, 0.0, whole=True)
    assert "kube_rewrap_campaign_eta_seconds scope=everything" not in shown(registry)


def test_a_second_sweep_counts_anew_as_the_log_does(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.configured("sha256:0")
    spec = replace(_SPEC, namespaces=(("a", 10),))
    first = Checkpoint(spec=spec, state=BatchState.DONE, report=BatchReport.of({"rewritten": 10}))
    again = Checkpoint(spec=replace(spec, sweep=2), state=BatchState.DONE, report=BatchReport.of({"rewritten": 10}))
    again = replace(again, report=replace(again.report, current=10))
    swept = replace(campaign(), sweeps=2)
    metrics.campaign(swept, [first, again], 0.0, whole=True)
    samples = starting("kube_rewrap_campaign_", shown(registry))
    standing = Standing.of([first, again], 2)
    assert (standing.done, standing.total, standing.batches_left) == (10, 20, 1)
    assert samples["objects_processed scope=everything"] == standing.done
    assert samples["objects_planned scope=everything"] == standing.total
    assert samples["batches_left scope=everything"] == standing.batches_left


def test_a_rotation_shows_its_step_since_when_and_whether_it_is_held(registry: CollectorRegistry) -> None:
    began = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    wall = Clock()
    metrics = SchedulerMetrics(registry, wall=wall)
    assert starting("kube_rewrap_rotation_", shown(registry)) == {}
    wall.now = began + 60
    metrics.rotation(ROTATION)
    metrics.configured("sha256:1")
    steps = {f"step step={step.value}": float(step is RotationStep.ADD) for step in RotationStep}
    assert starting("kube_rewrap_rotation_", shown(registry)) == {**steps, "step_age_seconds": 60.0, "held": 0.0}
    metrics.rotation(replace(ROTATION.at(RotationStep.SPREAD, "why", "2026-01-01T12:00:50+00:00"), held="paused"))
    samples = starting("kube_rewrap_rotation_", shown(registry))
    assert samples == {
        **steps,
        "step step=add": 0.0,
        "step step=spread": 1.0,
        "step_age_seconds": 10.0,
        "held": 1.0,
    }


def test_a_key_whose_count_is_unknown_is_shown_as_restored(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.budgets([replace(KEYS["a" * 16], restored=True)], 100, ["a" * 16])
    samples = starting("kube_rewrap_key_", shown(registry))
    label = f"fingerprint={'a' * 16} provider=aesgcm"
    assert (samples[f"restored {label}"], samples[f"rotation_due {label}"]) == (1.0, 1.0)


def test_budgets_are_by_key_and_a_limit_only_where_there_is_one(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)
    metrics.budgets(KEYS.values(), 100, ["a" * 16])
    aesgcm, secretbox = f"fingerprint={'a' * 16} provider=aesgcm", f"fingerprint={'b' * 16} provider=secretbox"
    assert starting("kube_rewrap_key_", shown(registry)) == {
        f"budget_used {aesgcm}": 100.0,
        f"budget_used {secretbox}": 5.0,
        f"budget_limit {aesgcm}": 100.0,
        f"rotation_due {aesgcm}": 1.0,
        f"restored {aesgcm}": 0.0,
        f"observed_writes_total {aesgcm}": 50.0,
        f"observed_writes_total {secretbox}": 0.0,
    }
    metrics.budgets([], 100, [])
    assert starting("kube_rewrap_key_", shown(registry)) == {}


def test_who_no_longer_leads_forgets_what_only_a_leader_knows(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 5.0)
    metrics.leads(leads=True)
    metrics.configured("sha256:0")
    metrics.queue(is_available=True)
    metrics.drifted()
    metrics.campaign(campaign(), BATCHES, 12.5, whole=True)
    metrics.scanned(scan(0))
    metrics.lags(4)
    metrics.observed(7, 2)
    metrics.budgets(KEYS.values(), 100, [])
    metrics.rotation(ROTATION)
    metrics.leads(leads=False)
    assert shown(registry) == {
        "kube_rewrap_is_leader": 0.0,
        "kube_rewrap_queue_available": 1.0,
        "kube_rewrap_last_tick_timestamp_seconds": 5.0,
        "kube_rewrap_drift_found_total": 1.0,
    }


def test_the_keks_of_a_leader_are_shown(registry: CollectorRegistry) -> None:
    wall = Clock()
    metrics = SchedulerMetrics(registry, wall=wall)
    metrics.leads(leads=True)
    metrics.keks({"cloud": KekFigures(1_000.0, 400.0), "new": KekFigures(is_held=True)})
    metrics.configured("sha256:1")
    wall.now += 25
    shown_keks = {
        "status_age_seconds provider=cloud": 25.0,
        "age_seconds provider=cloud": 625.0,
        "held provider=cloud": 0.0,
        "held provider=new": 1.0,
    }
    assert starting("kube_rewrap_kek_", shown(registry)) == shown_keks
    assert shown(registry)["kube_rewrap_configuration_waiting"] == 0.0
    metrics.keks({}, True)
    assert starting("kube_rewrap_kek_", shown(registry)) == {}
    assert shown(registry)["kube_rewrap_configuration_waiting"] == 1.0
    metrics.keks({"cloud": KekFigures(1_000.0, 400.0)})
    metrics.leads(leads=False)
    assert starting("kube_rewrap_kek_", shown(registry)) == {}
    assert "kube_rewrap_configuration_waiting" not in shown(registry)


def test_providers_beyond_the_bound_share_a_label_that_shows_the_worst(registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry, wall=lambda: 1_000.0)
    keks = {f"p{number}": KekFigures(1_000.0, 1_000.0) for number in range(34)}
    metrics.keks({**keks, "p32": KekFigures(900.0, 1_000.0), "p33": KekFigures(1_000.0, 990.0, is_held=True)})
    samples = starting("kube_rewrap_kek_", shown(registry))
    assert len(samples) == 3 * 33
    assert {name: value for name, value in samples.items() if name.endswith("=other")} == {
        "status_age_seconds provider=other": 100.0,
        "age_seconds provider=other": 10.0,
        "held provider=other": 1.0,
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
    WorkerMetrics(registry, 500.0, 2)
    samples = shown(registry)
    assert samples.pop("kube_rewrap_rate_ceiling_objects_per_second") == 500.0
    assert samples.pop("kube_rewrap_worker_children") == 2.0
    assert set(samples.values()) == {0.0}
    assert len(samples) == 14


def test_a_worker_adds_up_what_its_children_return(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry, 0.0, 2)
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


def test_a_worker_adds_up_the_calls_to_plugins(registry: CollectorRegistry) -> None:
    clock = Clock()
    metrics = WorkerMetrics(registry, 0.0, 2, clock)
    metrics.count({"outcome": "failed", "plugins": [PLUGIN.to_json()]})
    clock.now += 10
    again = replace(PLUGIN, failing=frozenset[Method](), status_age=50.0)
    metrics.count({"outcome": "handed_back", "plugins": [again.to_json(), replace(again, version="v1").to_json()]})
    samples = starting("kube_rewrap_kms_", shown(registry))
    label = "provider=cloud version=v2"
    assert {name: value for name, value in samples.items() if name.endswith(label) and "bucket" not in name} == {
        f"call_seconds_count method=decrypt {label}": 4.0,
        f"call_seconds_sum method=decrypt {label}": 40.06,
        **{
            f"calls_total method=decrypt outcome={outcome} {label}": made
            for outcome, made in (("ok", 4.0), ("refused", 2.0))
        },
        **{
            f"calls_total method=decrypt outcome={outcome} {label}": 0.0
            for outcome in ("unavailable", "undecided", "cancelled")
        },
        f"circuit_open method=decrypt {label}": 0.0,
        f"sources_total {label}": 4.0,
        f"refused_sources_total {label}": 6.0,
        f"seeds_total {label}": 2.0,
    }
    buckets = {name: value for name, value in samples.items() if "bucket" in name and name.endswith(label)}
    assert buckets["call_seconds_bucket le=0.025 method=decrypt provider=cloud version=v2"] == 0.0
    assert buckets["call_seconds_bucket le=0.05 method=decrypt provider=cloud version=v2"] == 2.0
    assert buckets["call_seconds_bucket le=+Inf method=decrypt provider=cloud version=v2"] == 4.0
    assert samples["sources_total provider=cloud version=v1"] == 2.0


def test_the_age_of_status_is_that_of_the_newest_of_any_child(registry: CollectorRegistry) -> None:
    clock = Clock()
    metrics = WorkerMetrics(registry, 0.0, 2, clock)
    metrics.count({"plugins": [replace(PLUGIN, status_age=None).to_json()]})
    assert "kube_rewrap_kms_status_age_seconds provider=cloud" not in shown(registry)
    metrics.count({"plugins": [replace(PLUGIN, status_age=2.0).to_json()]})
    clock.now += 10
    metrics.count({"plugins": [replace(PLUGIN, status_age=50.0).to_json()]})
    assert shown(registry)["kube_rewrap_kms_status_age_seconds provider=cloud"] == 12.0


def test_a_circuit_is_shown_as_long_as_its_plugin_is_called(registry: CollectorRegistry) -> None:
    clock = Clock()
    metrics = WorkerMetrics(registry, 0.0, 2, clock)
    metrics.count({"plugins": [PLUGIN.to_json()]})
    name = "kube_rewrap_kms_circuit_open method=decrypt provider=cloud version=v2"
    clock.now += 900
    assert shown(registry)[name] == 1.0
    clock.now += 1
    assert name not in shown(registry)


def test_plugins_beyond_the_bound_share_a_label(registry: CollectorRegistry) -> None:
    metrics = WorkerMetrics(registry, 0.0, 2)
    for number in range(40):
        metrics.count({"plugins": [replace(PLUGIN, provider=f"p{number}").to_json()]})
    seeds = starting("kube_rewrap_kms_seeds_total ", shown(registry))
    assert len(seeds) == 33
    assert seeds["provider=other version=v2"] == 8.0


@pytest.mark.parametrize(
    "plugins",
    [
        pytest.param("x", id="a text"),
        pytest.param([PLUGIN.to_json()] * 9, id="too many"),
        pytest.param([PLUGIN.to_json(), {**PLUGIN.to_json(), "sources": -1}], id="a count below 0"),
        pytest.param([{**PLUGIN.to_json(), "sources": True}], id="no number"),
        pytest.param([{**PLUGIN.to_json(), "version": "v3"}], id="a version"),
        pytest.param([{**PLUGIN.to_json(), "provider": "a" * 1_201}], id="a long name"),
        pytest.param([{**PLUGIN.to_json(), "provider": None}], id="no name"),
        pytest.param([{**PLUGIN.to_json(), "failing": ["v9"]}], id="a method"),
        pytest.param([{**PLUGIN.to_json(), "failing": ["status"] * 4}], id="too many methods"),
        pytest.param([{**PLUGIN.to_json(), "status_age": float("nan")}], id="an age"),
        pytest.param([{**PLUGIN.to_json(), "calls": {"decrypt": {"fine": [1, 1.0] + [1] * 11}}}], id="an outcome"),
        pytest.param([{**PLUGIN.to_json(), "calls": {"decrypt": {"ok": [1, 1.0] + [1] * 12}}}], id="a bucket more"),
        pytest.param([{**PLUGIN.to_json(), "calls": {"decrypt": [1]}}], id="no outcomes"),
    ],
)
def test_malformed_reports_of_plugins_cost_themselves_alone(registry: CollectorRegistry, plugins: object) -> None:
    done = {"outcome": "worked", "report": REPORT.to_json(), "window": 32, "plugins": plugins}
    WorkerMetrics(registry, 0.0, 2).count(done)
    samples = shown(registry)
    assert samples["kube_rewrap_messages_total outcome=worked"] == 1.0
    assert samples["kube_rewrap_encryptions_total"] == 7.0
    assert starting("kube_rewrap_kms_", samples) == {}


@pytest.mark.parametrize(
    "done",
    [{}, {"outcome": "/registry/secrets/default/a"}, {"outcome": ["worked"]}, {"outcome": None, "report": "x"}],
    ids=str,
)
def test_no_text_of_anybody_elses_becomes_a_label(registry: CollectorRegistry, done: dict[str, object]) -> None:
    WorkerMetrics(registry, 0.0, 2).count(done)
    samples = starting("kube_rewrap_messages_total outcome=", shown(registry))
    assert samples == dict.fromkeys(["worked", "dropped", "handed_back", "failed", "refused"], 0.0) | {"other": 1.0}


# -------------------------------------------------------------------------------------------------------------- docs


def test_the_table_in_docs_is_the_registry(registry: CollectorRegistry) -> None:
    row = re.compile(r"^\| `(kube_rewrap_\w+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in row.findall(DOCS.read_text())}
    everything(registry)
    exposed = {
        family.name if family.type == "histogram" else sample.name: (family.type, set(sample.labels) - {"le"})
        for family in registry.collect()
        for sample in family.samples
    }
    assert told == exposed


def test_names_follow_the_conventions(registry: CollectorRegistry) -> None:
    everything(registry)
    for family in registry.collect():
        for sample in family.samples:
            assert re.fullmatch(r"kube_rewrap_[a-z_]+", sample.name)
            assert sample.name.endswith("_total") == (family.type == "counter")
        assert family.documentation.endswith(".")
