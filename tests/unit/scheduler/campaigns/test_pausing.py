"""When a campaign rests, and when it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_rewrap.config.settings.schema import SpaceSettings
from kube_rewrap.scheduler.campaigns.pausing import (
    MOST_FRESH,
    STANDSTILL_SECONDS,
    Pressure,
    Standstill,
    judge_pause,
    judge_room,
    plan_quarantine_limit,
)
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, QuarantineLimit, Scope

RUNNING = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=2,
    planned_at="2024-01-01T00:00:00+00:00",
    because="why",
)
NONE = Pressure(None, None, None)
FULL = Pressure("etcd is full", None, None)
CLOSED = Pressure(None, None, "outside the windows")
HELD = Pressure(None, None, None, kms="a new KEK")
AWAY = Pressure(None, None, None, kms="no permission", away="no permission")
ALL = Pressure("etcd is full", "no write left", "outside the windows")


@pytest.mark.parametrize(
    ("campaign", "pressure", "state", "cause", "because"),
    [
        pytest.param(RUNNING, NONE, "running", None, "why", id="nothing speaks against it => as it is"),
        pytest.param(RUNNING, FULL, "paused", Pause.SPACE, "etcd is full", id="no room => rest"),
        pytest.param(RUNNING, CLOSED, "paused", Pause.WINDOW, "outside the windows", id="outside the windows => rest"),
        pytest.param(RUNNING, ALL, "paused", Pause.SPACE, "etcd is full", id="several => the gravest is told"),
        pytest.param(
            RUNNING.paused(Pause.SPACE, "etcd is full"), NONE, "running", None,
            "the cause of its pause (space) is over", id="room again => go on",
        ),
        pytest.param(
            RUNNING.paused(Pause.WINDOW, "w"), FULL, "paused", Pause.SPACE, "etcd is full",
            id="another cause meanwhile => told",
        ),
        pytest.param(
            RUNNING.paused(Pause.OPERATOR, "by hand"), NONE, "paused", Pause.OPERATOR, "by hand",
            id="an operator's pause ends by an operator's word",
        ),
        pytest.param(
            RUNNING.paused(Pause.OPERATOR, "by hand"), FULL, "paused", Pause.OPERATOR, "by hand",
            id="an operator's pause stays an operator's",
        ),
        pytest.param(
            RUNNING.paused(Pause.QUARANTINE, "grew"), NONE, "paused", Pause.QUARANTINE, "grew",
            id="a pause for the quarantine ends by an operator's word",
        ),
        pytest.param(
            RUNNING.moved(CampaignState.PROVING, "why"), FULL, "proving", None, "why",
            id="a proof writes nothing => it goes on",
        ),
        pytest.param(
            RUNNING.moved(CampaignState.PROVING, "why"), HELD, "proving", None, "why",
            id="nothing may be written under a KEK => a proof goes on",
        ),
        pytest.param(
            RUNNING.moved(CampaignState.PROVING, "why"), AWAY, "paused", Pause.KMS, "no permission",
            id="a plugin does not serve => a proof rests",
        ),
        pytest.param(
            RUNNING.paused(Pause.KMS, "no permission"), NONE, "running", None, "the cause of its pause (kms) is over",
            id="the plugin serves again => go on",
        ),
        pytest.param(
            RUNNING.moved(CampaignState.CANCELLED, "why"), FULL, "cancelled", None, "why", id="an end is an end",
        ),
    ],
)  # fmt: skip
def test_a_rest(campaign: Campaign, pressure: Pressure, state: str, cause: Pause | None, because: str) -> None:
    judged = judge_pause(campaign, pressure)
    assert (judged.state.value, judged.paused_for, judged.because) == (state, cause, because)
    assert judge_pause(judged, pressure) == judged


def test_after_a_lack_of_room_a_little_more_is_asked_for() -> None:
    settings = SpaceSettings(stop_at=0.8)
    room = Room(projected=79, quota=100, refusal=None)
    assert judge_room(room, settings, None) is None
    assert judge_room(room, settings, Pause.SPACE) is not None
    assert judge_room(replace(room, projected=78), settings, Pause.SPACE) is None
    assert judge_room(replace(room, refusal="full"), settings, None) == "full"


# ------------------------------------------------------------------------------------------- how a quarantine may grow

EVERYTHING, TEAM = Scope(("secrets", "configmaps")), Scope(("secrets",), ("team",))


def ended(scope: Scope, proof: int, planned: int = 0) -> Campaign:
    return replace(RUNNING, scope=scope, proof_revision=proof, quarantine_limit=QuarantineLimit(0, planned, MOST_FRESH))


@pytest.mark.parametrize(
    ("known", "since"),
    [
        pytest.param([], 0, id="nothing on record => all that can't be read is new"),
        pytest.param([ended(EVERYTHING, 90, 70)], 70, id="an earlier campaign covered it, as of its plan"),
        pytest.param([ended(EVERYTHING, 90)], 90, id="one of an older version, as of its proof"),
        pytest.param([ended(Scope(("secrets",)), 90, 70)], 70, id="over all namespaces of the resource"),
        pytest.param([ended(TEAM, 90, 70)], 70, id="over the same namespace"),
        pytest.param([ended(Scope(("secrets",), ("other",)), 90, 70)], 0, id="over another namespace => not covered"),
        pytest.param([ended(Scope(("configmaps",)), 90, 70)], 0, id="over another resource => not covered"),
        pytest.param([ended(EVERYTHING, 0, 70)], 0, id="one that did not come to its proof => not covered"),
        pytest.param([ended(EVERYTHING, 90, 70), ended(TEAM, 130, 110)], 110, id="the newest counts"),
    ],
)
def test_what_is_new_was_written_since_a_campaign_covered_it(known: list[Campaign], since: int) -> None:
    for attended in (True, False):
        quarantine_limit = plan_quarantine_limit(known, TEAM, 200, attended=attended)
        assert quarantine_limit == QuarantineLimit(since, 200, None if attended else MOST_FRESH)


def checkpoint(number: int, **values: Any) -> Checkpoint:
    spec = BatchSpec(
        campaign="c",
        number=number,
        resource="secrets",
        range=KeyRange.of_prefix(b"/registry/secrets/"),
        generation="sha256:0",
    )
    return Checkpoint(spec=spec, **values)


WAITS = checkpoint(0)
FAILED = checkpoint(1, attempts=3, by_plugin=True, because="it is down")


@pytest.mark.parametrize(
    ("batches", "seconds", "rests"),
    [
        pytest.param([WAITS, FAILED], STANDSTILL_SECONDS, True, id="a plugin failed each that was tried => rest"),
        pytest.param([WAITS, FAILED], STANDSTILL_SECONDS - 1, False, id="not for a minute yet => go on"),
        pytest.param([WAITS], STANDSTILL_SECONDS, False, id="none was tried: there may be no worker => go on"),
        pytest.param(
            [FAILED, checkpoint(2, attempts=1, because="its own fault")], STANDSTILL_SECONDS, False,
            id="one failed otherwise => go on",
        ),
        pytest.param(
            [FAILED, checkpoint(2, attempts=1)], STANDSTILL_SECONDS, False, id="a worker is at one => go on"
        ),
        pytest.param(
            [FAILED, checkpoint(2, attempts=1, state=BatchState.DONE)], STANDSTILL_SECONDS, True,
            id="the others are done => rest",
        ),
    ],
)  # fmt: skip
def test_a_campaign_rests_where_the_plugins_of_all_workers_fail(
    batches: list[Checkpoint], seconds: float, *, rests: bool
) -> None:
    before = [replace(one, attempts=max(0, one.attempts - 1)) for one in batches]
    still = Standstill(0.0).seen("c", before, 100.0).seen("c", batches, 100.0 + seconds)
    assert bool(still.why(batches, 100.0 + seconds)) is rests


def test_a_standstill_begins_anew_with_each_step_forward_and_each_campaign() -> None:
    still = Standstill(0.0).seen("c", [FAILED], 100.0)
    assert still.seen("c", [replace(FAILED, attempts=9)], 150.0) == still
    assert still.seen("c", [replace(FAILED, cursor=b"/registry/secrets/a")], 150.0).since == 150.0
    assert still.seen("d", [FAILED], 150.0).since == 150.0
    # As after a rest: that batches failed before says nothing of now.
    assert not still.why([FAILED], 1_000.0)
    assert "it is down" in still.why([replace(FAILED, attempts=4)], 1_000.0)
