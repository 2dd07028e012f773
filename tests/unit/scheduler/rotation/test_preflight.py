"""The reasons against a rotation before it begins: all at once, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.rotation.preflight import PreflightFacts, Workload, reasons_against, steps_of
from kube_rewrap.scheduler.rotation.transition import Facts, advance
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, Scope
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import KeyRef

LIMIT = 1_000
OLD = KeyRef("aescbc", "old", "0" * 16)
ROTATION = Rotation(
    id="r",
    step=RotationStep.ADD,
    because="asked for",
    entries=(0,),
    resources=("secrets",),
    provider="aesgcm",
    key_name="new",
    retired=(OLD,),
    file="sha256:0",
)
RUNNING = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=1,
    planned_at="2026-01-01T00:00:00",
    because="why",
)
ALL_RUN = Convergence(is_converged=True, file_hash="sha256:0", because="all run it")
READY = PreflightFacts(ALL_RUN, workload=Workload(LIMIT))
LAGS = Convergence(is_converged=False, file_hash="sha256:0", because="one lags")


def resting(pause: Pause) -> Campaign:
    return replace(RUNNING, state=CampaignState.PAUSED, paused_for=pause)


@pytest.mark.parametrize(
    ("ground", "begins"),
    [
        pytest.param(replace(READY, other=ROTATION), "the rotation r is at the step add", id="another rotation"),
        pytest.param(replace(READY, campaigns=(RUNNING,)), "the campaign c is running", id="a campaign at work"),
        pytest.param(
            replace(READY, campaigns=(resting(Pause.OPERATOR),), is_exhausted=True),
            "the campaign c is paused",
            id="an operator paused one, even where a key is exhausted",
        ),
        pytest.param(
            replace(READY, convergence=LAGS),
            LAGS.blocker,
            id="a kube-apiserver lags",
        ),
        pytest.param(replace(READY, file=("it is a link",)), "it is a link; `rewrap rotate --manual`", id="a link"),
        pytest.param(replace(READY, registry="nothing there"), "nothing there", id="no registry"),
        pytest.param(
            replace(READY, plugin="it is not available"),
            "the KMS provider to add can't be used from here: it is not available",
            id="a plugin that is down",
        ),
        pytest.param(
            replace(READY, workload=Workload(LIMIT + 1)),
            "1001 objects are to be encrypted",
            id="more objects than writes",
        ),
        pytest.param(replace(READY, workload=Workload(space="etcd is full")), "etcd is full", id="no room"),
    ],
)
def test_one_reason_against_it_is_said(ground: PreflightFacts, begins: str) -> None:
    [reason] = reasons_against(ROTATION, ground, LIMIT)
    assert reason.startswith(begins)


@pytest.mark.parametrize(
    "ground",
    [
        pytest.param(READY, id="nothing speaks against it"),
        pytest.param(replace(READY, campaigns=(resting(Pause.BUDGET),)), id="a campaign rests for the write budget"),
        pytest.param(
            replace(READY, campaigns=(resting(Pause.WINDOW),)), id="a campaign rests outside the maintenance windows"
        ),
        pytest.param(replace(READY, campaigns=(RUNNING,), is_exhausted=True), id="a key is exhausted => it can't wait"),
        pytest.param(
            replace(READY, workload=Workload(10, unreadable=10)), id="what can't be read needs the new key, too"
        ),
        pytest.param(replace(READY, workload=None), id="not scanned yet"),
    ],
)
def test_what_is_no_reason(ground: PreflightFacts) -> None:
    assert reasons_against(ROTATION, ground, LIMIT) == ()


def test_only_aesgcm_has_a_limit() -> None:
    ground = replace(READY, workload=Workload(10 * LIMIT))
    assert reasons_against(replace(ROTATION, provider="secretbox"), ground, LIMIT) == ()


def test_a_present_file_that_is_refused_is_a_reason() -> None:
    assert reasons_against(ROTATION, replace(READY, refused="nothing is written under it"), LIMIT) == (
        "nothing is written under it",
    )


def test_all_reasons_are_said_at_once() -> None:
    ground = PreflightFacts(LAGS, ROTATION, (RUNNING,), ("it is a link", "no archive"), "", Workload(9_999, 0, "full"))
    assert len(reasons_against(ROTATION, ground, LIMIT)) == 7


def test_the_steps_are_those_of_the_rotation() -> None:
    names = [step for step, _ in steps_of(replace(ROTATION, prune=True))]
    assert names == ["add", "spread", "promote", "switch", "rewrap", "prove", "compact", "prune", "converge"]
    assert [step for step, _ in steps_of(ROTATION)] == names[:-2]


def test_by_hand_nothing_is_archived_and_nothing_is_said_to_be() -> None:
    by_hand = replace(ROTATION, prune=True, by_hand=True)
    assert [what for _, what in steps_of(by_hand) if "archive" in what] == []
    assert "keep a copy of it" in dict(steps_of(by_hand))["prune"]
    for step in (RotationStep.ADD, RotationStep.PROMOTE):
        decided = advance(replace(by_hand, step=step), Facts(by_hand.file), "2026-01-01T00:00:00+00:00")
        assert decided.because.startswith("handed to an operator: ")
