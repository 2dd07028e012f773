"""The severity of each finding, and the guides that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kube_rewrap.cli.parser import build_parser
from kube_rewrap.scheduler.hardening.checklist import judge
from kube_rewrap.scheduler.hardening.facts import Check, State
from kube_rewrap.scheduler.hardening.standards import REFERENCES, Severity, finding_json, reaches, severity_of
from tests.unit.scheduler.hardening.cluster import GOOD, IDS

HARDENING = Path(__file__).parents[4] / "docs" / "hardening.md"


@pytest.mark.parametrize(
    ("name", "state", "severity"),
    [
        ("plaintext", State.FAIL, Severity.CRITICAL),
        ("converged", State.FAIL, Severity.HIGH),
        ("aescbc", State.WARN, Severity.MEDIUM),
        ("old-keys", State.WARN, Severity.LOW),
        ("key-age", State.UNKNOWN, Severity.LOW),
        ("plaintext", State.PASS, None),
    ],
)
def test_the_severity_of_a_finding(name: str, state: State, severity: Severity | None) -> None:
    assert severity_of(Check(name, state, "it is so")) is severity


@pytest.mark.parametrize("name", IDS)
def test_what_fails_is_high_or_more_and_nothing_else_is(name: str) -> None:
    reached = {state for state in State if reaches(Check(name, state, "it is so"), Severity.HIGH)}
    assert reached == {State.FAIL}


def test_every_finding_reaches_the_least_severity_and_a_pass_reaches_none() -> None:
    assert {state for state in State if reaches(Check("aescbc", state, ""), Severity.LOW)} == {*State} - {State.PASS}


def test_only_checks_that_exist_have_references() -> None:
    assert set(REFERENCES) <= set(IDS)


def test_a_passed_check_keeps_its_references_and_has_no_severity() -> None:
    found = {check.id: finding_json(check) for check in judge(GOOD)}
    assert found["etcd-access"]["severity"] is None
    assert [(one["version"], one["item"]) for one in found["etcd-access"]["references"]] == [  # type: ignore[attr-defined]
        ("v1.10.0", "2.2"),
        ("v1.2", "Control plane hardening: Etcd"),
    ]
    assert found["space"]["references"] == []


def test_the_page_lists_every_reference_and_no_other() -> None:
    page = HARDENING.read_text("utf-8")
    section = page[page.index("## Benchmarks") :]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]*) \| ([^|]*) \|$", section, re.MULTILINE)
    told = {name: [*cis.split(", "), *filter(None, nsa.split(", "))] for name, cis, nsa in rows}
    assert told == {name: [one.item for one in found] for name, found in REFERENCES.items()}


def test_fail_on_takes_each_severity() -> None:
    for severity in Severity:
        assert build_parser().parse_args(["audit", "--fail-on", severity.value]).fail_on == severity
