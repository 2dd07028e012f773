"""What `rewrap top` makes of the facts of one look."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.top.facts import CampaignFacts, Facts, Lock, Probed
from kube_rewrap.scheduler.top.snapshot import (
    RATE_SECONDS,
    EventRow,
    History,
    ReplicaRow,
    Sample,
    Snapshot,
    sampled,
    snapshot,
)
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.holder import UNNAMED
from tests.unit.scheduler.top.cluster import BUSY, IDLE, NEW, NOW, PROVING, RUNNING, campaign, entry

ID = RUNNING.campaign.id


def shown(facts: Facts = BUSY, history: History | None = None) -> Snapshot:
    return snapshot(facts, history or {}, Settings())


def in_state(state: CampaignState) -> Facts:
    return replace(BUSY, campaigns=(replace(RUNNING, campaign=replace(RUNNING.campaign, state=state)),))


def test_unfinished_campaigns_come_first_then_requests_then_the_newest_ended_ones() -> None:
    assert [(row.id, row.state) for row in shown().campaigns] == [
        (ID, "running"),
        ("20261126-115930-11223344", "waiting"),
        ("20261125-080000-def456", "complete"),
        ("20261125-070000-def457", "cancelled"),
    ]


def test_a_campaign_has_its_counts_and_before_samples_its_mean_rate() -> None:
    row = shown().campaigns[0]
    assert (row.done, row.planned, row.batches_done, row.batches) == (5_400, 9_000, 1, 3)
    assert (row.rate, row.seconds_left) == (90.0, 40.0)


def test_the_rate_is_that_of_the_samples_once_they_span_three_seconds() -> None:
    at = NOW.timestamp()
    early = {ID: (Sample(at - 2, 5_000), Sample(at, 5_400))}
    late = {ID: (Sample(at - 10, 3_400), Sample(at, 5_400))}
    assert (shown(history=early).campaigns[0].rate, shown(history=late).campaigns[0].rate) == (90.0, 200.0)
    assert shown(history=late).campaigns[0].seconds_left == 18.0


def test_a_new_sweep_that_takes_counts_back_shows_no_negative_rate_and_no_end() -> None:
    at = NOW.timestamp()
    row = shown(history={ID: (Sample(at - 10, 9_000), Sample(at, 5_400))}).campaigns[0]
    assert (row.rate, row.seconds_left) == (0.0, None)


@pytest.mark.parametrize("state", [CampaignState.PAUSED, CampaignState.PROVING])
def test_only_a_running_campaign_has_a_rate(state: CampaignState) -> None:
    row = shown(in_state(state)).campaigns[0]
    assert (row.rate, row.seconds_left, row.is_end) == (None, None, False)


def test_history_keeps_recent_samples_of_unfinished_campaigns_only() -> None:
    at = NOW.timestamp()
    before = {ID: (Sample(at - RATE_SECONDS - 1, 1), Sample(at - 5, 2)), "gone": (Sample(at - 1, 3),)}
    assert sampled(before, BUSY) == {ID: (Sample(at - 5, 2), Sample(at, 5_400))}
    assert sampled({}, in_state(CampaignState.COMPLETE)) == {}


def test_samples_from_after_a_clock_that_went_back_are_dropped() -> None:
    later = {ID: (Sample((NOW + timedelta(hours=1)).timestamp(), 9),)}
    assert sampled(later, BUSY) == {ID: (Sample(NOW.timestamp(), 5_400),)}


def test_workers_are_the_holders_of_claims_by_name() -> None:
    assert [(row.worker, row.batch, row.namespaces, row.done, row.planned) for row in shown().workers] == [
        ("node-a:4711", 1, "default..kube-system", 1_500, 3_000),
        ("node-b:811", 2, "default..kube-system", 900, 3_000),
    ]


def test_while_a_campaign_is_proven_its_parts_and_their_workers_are_shown() -> None:
    found = shown(PROVING)
    row = found.campaigns[0]
    assert (row.state, row.parts_done, row.parts, row.proven) == ("proving", 1, 3, 12_500)
    assert row.proven_share == round((1 + 0.25) / 3, 3)
    assert [(one.worker, one.job, one.batch, one.resource, one.namespaces, one.done) for one in found.workers] == [
        ("node-a:4711", "part", 1, "secrets", "", 2_500),
        ("node-b:811", "part", 2, "secrets", "", 0),
    ]


def test_parts_of_an_earlier_scan_do_not_count() -> None:
    [complete, proving] = PROVING.campaigns
    parts = (*proving.parts[:2], replace(proving.parts[2], revision=7, found=proving.parts[0].found))
    row = shown(replace(PROVING, campaigns=(complete, replace(proving, parts=parts)))).campaigns[0]
    assert (row.parts_done, row.parts, row.proven) == (1, 2, 12_500)
    planning = shown(replace(PROVING, campaigns=(replace(proving, parts=()),))).campaigns[0]
    assert (planning.parts, planning.proven, planning.proven_share) == (None, None, None)


def test_a_later_sweep_counts_as_the_log_counts_it() -> None:
    swept = replace(RUNNING, campaign=replace(RUNNING.campaign, sweeps=2))
    row = shown(replace(BUSY, campaigns=(swept,))).campaigns[0]
    assert (row.done, row.planned) == (0, 9_000)


def test_a_kms_provider_shows_its_kek_and_why_it_is_held() -> None:
    writing, other = shown(PROVING).keks
    assert (writing.provider, writing.fingerprint, writing.since) == ("cloud", "1" * 16, "2026-11-25T12:00:00+00:00")
    assert (writing.writes, writing.held) == (True, "")
    assert (other.writes, other.since, other.former) == (False, "", 1)
    assert "names a KEK that was in force before" in other.held


def test_without_an_address_to_ask_convergence_is_not_known() -> None:
    alone = Convergence(is_converged=False, file_hash="sha256:00", because="no address is given")
    assert shown(replace(BUSY, apiservers=Probed(alone))).apiservers.converged is None
    stated = replace(alone, is_converged=True, assumed="an operator said so")
    assert shown(replace(BUSY, apiservers=Probed(stated))).apiservers.converged is True


def test_a_claim_that_can_t_be_read_or_has_no_batch_is_shown_all_the_same() -> None:
    [row] = shown(replace(BUSY, campaigns=(replace(RUNNING, claims=((77, None),)),))).workers
    assert (row.worker, row.batch, row.resource, row.planned) == (UNNAMED, 77, "", 0)


def test_keys_that_write_come_first_and_tell_when_their_limit_is_reached() -> None:
    assert [(row.names, row.state, row.used, row.limit, row.writes, row.reached_on) for row in shown().keys] == [
        (("key-2026-11",), "ok", 105_000, 200_000, True, "2026-11-27"),
        (("key-2026-05",), "exhausted", 230_000, 200_000, False, None),
        (("box",), "unlimited", 7, None, False, None),
    ]


def test_without_a_recorded_configuration_no_key_is_called_the_one_that_writes() -> None:
    rows = shown(replace(BUSY, in_force=None)).keys
    assert [row.writes for row in rows] == [False, False, False]
    assert {row.fingerprint for row in rows} >= {NEW.fingerprint}


def test_etcd_is_judged_by_its_fullest_member() -> None:
    etcd = shown().etcd
    assert (etcd.size, etcd.in_use, etcd.quota) == (700 * 2**20, 510 * 2**20, 2 * 2**30)
    assert (etcd.answering, etcd.endpoints, etcd.latency_ms, etcd.trouble) == (2, 3, 12.3, "")
    alarmed = replace(BUSY, etcd=replace(BUSY.etcd, alarms=("NOSPACE",)))
    assert shown(alarmed).etcd.trouble.startswith("etcd raised the alarm NOSPACE")


def test_locks_are_named_or_said_to_be_unreadable() -> None:
    found = shown(replace(BUSY, leader=Lock(None), owner=None))
    assert (found.leader, found.owner) == (UNNAMED, None)


def test_replicas_have_their_state_and_what_is_not_known_says_why() -> None:
    found = shown().apiservers
    assert (found.converged, found.because) == (False, "1 of 2 replicas runs another configuration")
    because = "has not reloaded the file yet"
    assert found.replicas[1] == ReplicaRow(
        "https://10.0.0.2:6443", "apiserver-2", "other configuration", is_converged=False, because=because
    )
    unknown = shown(replace(BUSY, apiservers=Probed(because="not known: no answer"))).apiservers
    assert (unknown.converged, unknown.because, unknown.replicas) == (None, "not known: no answer", ())


def test_an_event_without_a_reason_shows_its_details() -> None:
    one = replace(entry(1, "convergence.assumed", "", 0), detail={"file_hash": "sha256:0", "replicas": 3})
    [row] = shown(replace(BUSY, events=(one,))).events
    assert row == EventRow(one.at, "convergence.assumed", one.campaign, "file_hash sha256:0, replicas 3")


def test_an_idle_cluster_has_nothing_to_show_but_etcd() -> None:
    found = shown(IDLE)
    assert (found.leader, found.owner, found.rotation) == (None, None, None)
    assert (found.campaigns, found.workers, found.keys, found.events, found.gaps) == ((), (), (), (), ())


def test_a_campaign_of_no_objects_is_no_division_by_zero() -> None:
    empty = CampaignFacts(campaign("c", CampaignState.RUNNING, "nothing", seconds=0, batches=0))
    [row] = shown(replace(BUSY, campaigns=(empty,), requests=())).campaigns
    assert (row.done, row.planned, row.rate, row.seconds_left) == (0, 0, 0.0, None)


def test_the_json_form_is_json() -> None:
    document = json.loads(json.dumps(shown().to_json()))
    assert list(document)[:2] == ["at", "etcd"]
    assert document["rotation"]["step"] == "rewrap"
