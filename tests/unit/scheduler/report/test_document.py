"""The document of a report: its verdict, its form, its bounds, and what it must not say."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from kube_rewrap.scheduler.backups.catalogue import Catalogue, DamagedLine
from kube_rewrap.scheduler.hardening.facts import DAY
from kube_rewrap.scheduler.report.document import MOST_ROWS, is_proven, report_document
from kube_rewrap.scheduler.report.facts import ReportFacts, SubjectKind
from kube_rewrap.scheduler.report.wording import LONGEST, Wording
from kube_rewrap.worker.records.audit import Verdict
from kube_rewrap.worker.records.audit_chain import Head
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.rotation import RotationStep
from kube_rewrap.worker.verdict import KeyRef, Reason
from tests.unit.scheduler.backups.backups import backup
from tests.unit.scheduler.hardening.cluster import (
    GCM,
    GCM_TWO,
    GOOD,
    MATERIAL,
    NOBODY,
    NOW,
    proof,
    scanned,
    tally,
    used,
)
from tests.unit.scheduler.report.cases import CAMPAIGN, ENTRY, ROTATION, SECRET_NAME, overview, report_facts

SCHEMA = json.loads((Path(__file__).parents[4] / "docs" / "report.schema.json").read_text("utf-8"))
HOSTILE = "</style><script>alert(1)</script>\x1b[31m\n\u202e"
NOT_COMPLETE = replace(
    CAMPAIGN, state=CampaignState.INCOMPLETE, because=f"at revision 70, batch 1 is parked: {SECRET_NAME} failed"
)
LEFT = tally({GCM: 3}, Reason.NO_SUCH_KEY)


def valid(facts: ReportFacts) -> dict[str, Any]:
    """Returns a document after it was checked against the schema."""
    document = json.loads(json.dumps(report_document(facts)))
    Draft202012Validator(SCHEMA).validate(document)
    return document  # type: ignore[no-any-return]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", SubjectKind)
@pytest.mark.parametrize("changes", [{}, {"names": True}, {"judged": GOOD}, {"members": ()}])
def test_a_cluster_in_order_is_proven_without_a_caveat(kind: SubjectKind, changes: dict[str, Any]) -> None:
    document = valid(report_facts(kind, **changes))
    assert document["verdict"]["caveats"] == []
    assert (document["verdict"]["state"], is_proven(document)) == ("proven", True)


ROWS = [
    (
        "the scan finds a stale object",
        SubjectKind.NOW,
        {"judged": scanned(tally({GCM_TWO: 1}))},
        "not_proven",
        "1 stale",
    ),
    ("the scan finds an unreadable object", SubjectKind.NOW, {"judged": scanned(LEFT)}, "not_proven", "1 unreadable"),
    ("a plugin is down", SubjectKind.NOW, {"judged": replace(GOOD, missing="not opened")}, "not_proven", "not opened"),
    (
        "the campaign is not complete",
        SubjectKind.CAMPAIGN,
        {"campaign": overview(NOT_COMPLETE), "trail": ()},
        "not_proven",
        "The campaign is incomplete",
    ),
    (
        "the record of an incomplete campaign was changed to complete",
        SubjectKind.CAMPAIGN,
        {"trail": (replace(ENTRY, detail={"state": "incomplete", "proof_revision": 70, "unreadable": 1}),)},
        "not_proven",
        "the audit log's entry about its end differ: state, unreadable.",
    ),
    (
        "an entry of an older version has no counts",
        SubjectKind.CAMPAIGN,
        {"trail": (replace(ENTRY, detail={"state": "complete"}),), "judged": None},
        "proven_with_caveats",
        "Nothing was scanned",
    ),
    (
        "the audit log forgot the campaign",
        SubjectKind.CAMPAIGN,
        {"trail": ()},
        "proven_with_caveats",
        "no entry about the campaign's end",
    ),
    (
        "the record of another campaign is damaged",
        SubjectKind.CAMPAIGN,
        {"damaged": ("campaign 20260301-100000-000ccc",)},
        "proven_with_caveats",
        "can't be read are left out: campaign 20260301-100000-000ccc.",
    ),
    (
        "the campaign is of another file",
        SubjectKind.CAMPAIGN,
        {"campaign": overview(replace(CAMPAIGN, generation="sha256:1"))},
        "proven_with_caveats",
        "another configuration",
    ),
    (
        "the campaign covers a part",
        SubjectKind.CAMPAIGN,
        {"campaign": overview(replace(CAMPAIGN, whole=False))},
        "proven_with_caveats",
        "covers a part",
    ),
    (
        "an object is stale since the campaign",
        SubjectKind.CAMPAIGN,
        {"judged": scanned(tally({GCM_TWO: 1}))},
        "proven_with_caveats",
        "finds 1 stale objects",
    ),
    ("nothing was scanned", SubjectKind.CAMPAIGN, {"judged": None}, "proven_with_caveats", "Nothing was scanned"),
    (
        "another file is in force",
        SubjectKind.NOW,
        {"in_force": "sha256:1"},
        "proven_with_caveats",
        "The service follows",
    ),
    (
        "kube-apiservers are unknown",
        SubjectKind.NOW,
        {"convergence": NOBODY},
        "proven_with_caveats",
        "not known to run",
    ),
    (
        "the audit log is broken",
        SubjectKind.NOW,
        {"audit": Verdict(Head(2, "0" * 64, 1), 1, ENTRY, ENTRY, ("entry 2 is missing",))},
        "proven_with_caveats",
        "entry 2 is missing",
    ),
    (
        "a budget is used up",
        SubjectKind.NOW,
        {"judged": used(200_000), "budgets": used(200_000).budgets},
        "proven_with_caveats",
        "exhausted",
    ),
    (
        "the rotation has not ended",
        SubjectKind.ROTATION,
        {"rotation": replace(ROTATION, step=RotationStep.COMPACT, held="an operator paused it")},
        "not_proven",
        "at the step compact: an operator paused it",
    ),
]


@pytest.mark.parametrize(("kind", "changes", "state", "said"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_the_verdict(kind: SubjectKind, changes: dict[str, Any], state: str, said: str) -> None:
    verdict = valid(report_facts(kind, **changes))["verdict"]
    assert verdict["state"] == state
    assert said in " ".join([verdict["sentence"], *verdict["caveats"]])


def test_a_rotation_is_proven_by_its_own_step_and_a_campaign_by_its_record() -> None:
    proven = valid(report_facts(SubjectKind.ROTATION))["proof"]
    assert (proven["source"], proven["revision"], proven["at"]) == ("rotation", 72, "2026-03-01T09:59:40+00:00")
    assert proven["because"] == "a scan at revision 72 found nothing"
    proven = valid(report_facts(SubjectKind.CAMPAIGN))["proof"]
    assert (proven["source"], proven["revision"], proven["by"]) == ("campaign", 70, ["rewrap run node-1:17"])


def test_a_proof_whose_record_was_changed_is_not_complete() -> None:
    forged = (replace(ENTRY, detail={"state": "incomplete"}),)
    assert valid(report_facts(SubjectKind.CAMPAIGN, trail=forged))["proof"]["complete"] is False


@pytest.mark.parametrize("kind", SubjectKind)
def test_a_proof_says_how_many_objects_it_read_under_which_key(kind: SubjectKind) -> None:
    judged = scanned(tally({GCM: 5}))
    proven = valid(report_facts(kind, judged=judged))["proof"]
    assert [proven[name] for name in ("objects", "stale", "unreadable", "total")] == [5, 0, 0, 1]
    key = {"provider": GCM.provider, "key": GCM.name, "fingerprint": GCM.fingerprint}
    assert proven["keys"] == [{"resource": "secrets", **key, "objects": 5, "state": "current"}]


def test_a_record_of_an_older_version_has_no_counts() -> None:
    older = valid(report_facts(SubjectKind.CAMPAIGN, campaign=overview(replace(CAMPAIGN, proof_counts=None))))
    assert (older["proof"]["complete"], older["proof"]["objects"], older["proof"]["keys"]) == (True, None, None)


def test_without_a_scan_nothing_is_called_removable_or_counted() -> None:
    document = valid(report_facts(SubjectKind.CAMPAIGN, judged=None))
    assert (document["scan"], document["checklist"]) == (None, None)
    assert {(key["removable"], key["objects"]) for key in document["keys"]["keys"]} == {(None, None)}


@pytest.mark.parametrize("kind", [SubjectKind.NOW, SubjectKind.CAMPAIGN])
def test_objects_are_named_only_where_that_is_asked_for(kind: SubjectKind) -> None:
    left = replace(scanned(LEFT), quarantined=(f"{SECRET_NAME} (too_large)",), stuck=1)
    scope = replace(NOT_COMPLETE, scope=replace(CAMPAIGN.scope, namespaces=("payroll",)))
    changes = {"judged": left, "campaign": overview(scope) if kind is SubjectKind.CAMPAIGN else None}
    hidden = json.dumps(valid(report_facts(kind, **changes)))
    assert [name for name in ("payroll", "salaries", "/registry/secrets") if name in hidden] == []
    shown = valid(report_facts(kind, names=True, **changes))
    assert shown["quarantine"]["total"] == 1
    assert len(shown["quarantine"]["objects"]) == 1
    assert SECRET_NAME in json.dumps(shown)


def test_ten_thousand_hostile_keys_are_bounded_and_escaped() -> None:
    keys = tuple(KeyRef("aesgcm", f"{HOSTILE}{number}{'x' * 5_000}", f"{number:016x}") for number in range(10_000))
    names = tuple(f"{HOSTILE}{number}.example.com" for number in range(10_000))
    generation = replace(GOOD.generation, resources=tuple((name, keys[:5]) for name in names))
    many = tally(dict.fromkeys(keys[:3_000], 1), resource=HOSTILE)
    verdicts = tuple(replace(GOOD.keys[0], key=key, blockers=(HOSTILE * 900,) * 20) for key in keys)
    judged = replace(GOOD, generation=generation, proof=proof(many), keys=verdicts)
    document = valid(report_facts(judged=judged, generation=generation, made_by=HOSTILE, in_force=HOSTILE))
    assert document["keys"]["total"] == 10_000
    assert len(document["keys"]["keys"]) == MOST_ROWS
    assert len(document["keys"]["blockers"]) == 1
    assert len(json.dumps(document)) < 2_000_000
    assert [text for text in texts_in(document) if not text.isprintable() or len(text) > LONGEST] == []


def texts_in(value: object) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for one in value.values() for text in texts_in(one)]
        case list():
            return [text for one in value for text in texts_in(one)]
    return []


def test_the_catalogue_is_shown_by_what_is_kept_and_the_keys_that_it_needs() -> None:
    unknown = (KeyRef("aesgcm", "lost", ""),)
    first = backup(1, made=NOW - DAY, keys=(GCM, GCM_TWO), unknown_keys=unknown, expires=NOW + DAY)
    later = backup(2, made=NOW, keys=(GCM,), unknown_keys=unknown, readable=False, unreadable=1, expires=None)
    expired = backup(3, made=NOW - 9 * DAY, keys=(KeyRef("kms", "vault", "0" * 16),), expires=NOW - 5 * DAY)
    catalogue = Catalogue((first, later, expired), (DamagedLine(4, "0" * 64, "torn"),), distrust="its mode is 0666")
    for kind in SubjectKind:
        found = valid(report_facts(kind, judged=replace(GOOD, catalogue=catalogue)))["backups"]
        assert [found[name] for name in ("total", "readable", "damaged_lines", "keys_total")] == [2, 1, 1, 3]
        assert (found["newest"]["sha256"], found["newest"]["readable"]) == (later.digest, False)
        assert found["distrust"] == "its mode is 0666"
        rows = {one["fingerprint"]: (one["backups"], one["until"], one["configured"]) for one in found["keys"]}
        until = datetime.fromtimestamp(NOW + DAY, UTC).isoformat(timespec="seconds")
        # The file lacks the second. The third is one of an unreadable backup, and of old revisions in a readable one.
        known = {GCM.fingerprint: (2, None, True), GCM_TWO.fingerprint: (1, until, False)}
        assert rows == {**known, "": (1, None, False)}
        assert first.file not in json.dumps(found)
    assert valid(report_facts(judged=replace(GOOD, catalogue=None)))["backups"] is None
    assert valid(report_facts(judged=replace(GOOD, catalogue=Catalogue())))["backups"]["newest"] is None


def test_no_key_material_is_in_it() -> None:
    for kind in SubjectKind:
        written = json.dumps(report_document(report_facts(kind, names=True)))
        for secret in MATERIAL.values():
            assert secret.decode() not in written
            assert base64.b64encode(secret).decode() not in written


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it read /registry/secrets/a/b, and failed", "it read (an object) and failed"),
        ("all under /registry", "all under /registry"),
        ("a\nb\x1b\u202e", "a\\nb\\x1b\\u202e"),
        ("x" * 700, "x" * 599 + "…"),
        ("\x00" * 700, "\\x00" * 149 + "\\x0…"),
    ],
)
def test_a_text_is_bounded_and_printable(text: str, shown: str) -> None:
    assert Wording("/registry/", names=False).text(text) == shown
