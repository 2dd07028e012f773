"""`campaign show` fits a terminal of 24 lines, however much there is to say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kube_rewrap.cli.commands.campaign import _print_all, _print_screen
from kube_rewrap.scheduler.campaigns.status import Overview
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import Reason

RESOURCES = tuple(f"widgets{number}.example.com" for number in range(30))
WORKERS = tuple(f"node-{number}.cluster.example.com:{number}" for number in range(20))


def batch(number: int, resource: str) -> Checkpoint:
    spec = BatchSpec(
        campaign="c",
        number=number,
        resource=resource,
        range=KeyRange(b"a", b"b"),
        generation="sha256:0",
        namespaces=(("default", 100),),
    )
    return Checkpoint(spec=spec, state=BatchState.RUNNING, report=BatchReport.of({"rewritten": 40, "quarantined": 5}))


CAMPAIGN = Campaign(
    id="20261127-013255-4779b5",
    state=CampaignState.RUNNING,
    generation=f"sha256:{'0' * 64}",
    scope=Scope(RESOURCES),
    batches=len(RESOURCES),
    planned_at="2026-01-01T00:00:00+00:00",
    because="the configuration changed: secrets is written with another provider: aesgcm:new-key (175f9be84318d806)",
    options=CampaignOptions(since=77),
)
BATCHES = tuple(batch(number, name) for number, name in enumerate(RESOURCES))
QUARANTINED = tuple(
    QuarantinedObject(
        b"/registry/secrets/team-%03d/a-name-of-some-length" % number, Reason.NO_SUCH_KEY, "no key opens it", 7
    )
    for number in range(150)
)
WORST = Overview(
    CAMPAIGN.id,
    CAMPAIGN,
    None,
    datetime(2026, 1, 1, 1, tzinfo=UTC),
    report=BatchReport.total(one.report for one in BATCHES),
    batches=BATCHES,
    workers=WORKERS,
    quarantined=QUARANTINED,
    quarantined_by={(name, Reason.NO_SUCH_KEY): 5 + number for number, name in enumerate(RESOURCES)},
    outdated=tuple(f"the worker {name} holds the configuration sha256:{'1' * 64}" for name in WORKERS),
    in_force=f"sha256:{'2' * 64}",
)


def printed(
    capsys: pytest.CaptureFixture[str], found: Overview, *, columns: int = 80, everything: bool = False
) -> list[str]:
    _print_all(found) if everything else _print_screen(found, columns)
    return capsys.readouterr().out.splitlines()


def height(lines: list[str]) -> int:
    """Lines of a terminal of 80 columns."""
    return sum(max(1, -(-len(line) // 80)) for line in lines)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(WORST, id="a lot of everything"),
        pytest.param(
            replace(WORST, quarantined=(), quarantined_by={}, report=BatchReport()), id="nothing in quarantine"
        ),
        pytest.param(replace(WORST, outdated=(), workers=()), id="no worker"),
    ],
)
def test_it_fits_a_screen(found: Overview, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, found)
    assert height(lines) <= 23, "\n".join(lines)
    hidden = 30 - sum(one.startswith("widgets") for one in lines)
    assert lines[-1] == f"--namespaces shows {hidden} more resources, and the state of each namespace."


def test_the_most_is_shown_first_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, WORST)
    assert [line for line in lines if line.startswith("left alone")] == [
        "left alone:    34 of widgets29.example.com: no_key_of_that_name",
        "left alone:    ... 29 more with --namespaces",
    ]
    assert sum(line.startswith("outdated:") for line in lines) == 2


def test_with_room_objects_in_quarantine_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    few = replace(WORST, outdated=(), batches=BATCHES[:1], quarantined_by={("secrets", Reason.NO_SUCH_KEY): 150})
    lines = printed(capsys, few)
    assert "  /registry/secrets/team-000/a-name-of-some-length: no_key_of_that_name: no key opens it" in lines, (
        "\n".join(lines)
    )
    assert height(lines) <= 23


def test_without_a_terminal_no_value_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, WORST, columns=0)
    assert f"outdated:      {WORST.outdated[0]}" in lines
    assert not any(line.endswith("...") for line in lines)


def test_with_namespaces_all_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, WORST, everything=True)
    assert sum(line.startswith("left alone:") for line in lines) == 30
    assert sum(line.startswith("outdated:") for line in lines) == 20
    assert all(any(name in line for line in lines) for name in WORKERS)
