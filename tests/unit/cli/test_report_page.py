"""The page of a report: it quotes everything escaped, loads nothing, and runs nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from kube_rewrap.cli.report_page import page_of
from kube_rewrap.scheduler.report.document import report_document
from kube_rewrap.scheduler.report.facts import SubjectKind
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.verdict import Reason
from tests.unit.scheduler.hardening.cluster import GCM, GCM_TWO, scanned, tally
from tests.unit.scheduler.report.cases import CAMPAIGN, overview, report_facts

_VOID = {"meta", "br", "rect", "circle", "path"}
_MAY_LOAD = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
HOSTILE = '`<b>"><img src=//evil.example onerror=alert(1)>`</style><script>alert(1)</script>{{ 7 * 7 }}'


class Page(HTMLParser):
    """Every element of a page, with its attributes, and whether all were closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data


def require_harmless(page: str) -> Page:
    """Returns the parsed page after a look at everything in it that could load or run."""
    assert page.isascii()
    assert [char for char in page if not (char.isprintable() or char == "\n")] == []
    found = Page(page)
    assert found.open == []
    assert {tag for tag, _ in found.elements} & {
        "script",
        "iframe",
        "object",
        "embed",
        "img",
        "link",
        "base",
        "a",
    } == set()
    names = {name for _, attributes in found.elements for name in attributes}
    assert names & _MAY_LOAD == set()
    assert [name for name in names if name.startswith("on")] == []
    assert re.findall(r"url\(|@import|https?://", page.split("</style>", maxsplit=1)[0]) == []
    policy = next(attributes for _, attributes in found.elements if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    return found


CASES: list[dict[str, Any]] = [
    {"kind": SubjectKind.NOW},
    {"kind": SubjectKind.CAMPAIGN},
    {"kind": SubjectKind.ROTATION},
    {"kind": SubjectKind.NOW, "judged": None},
    {"kind": SubjectKind.NOW, "judged": scanned(tally({GCM: 1, GCM_TWO: 3}, Reason.NO_SUCH_KEY), unknown=("/x",))},
    {
        "kind": SubjectKind.CAMPAIGN,
        "campaign": overview(replace(CAMPAIGN, state=CampaignState.INCOMPLETE)),
        "names": True,
    },
    {"kind": SubjectKind.ROTATION, "campaign": None, "rotations": (), "members": (), "names": True},
]


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_report_has_a_page(case: dict[str, Any]) -> None:
    document = report_document(report_facts(**case))
    page = require_harmless(page_of(document))
    for heading in ("Proof", "Keys and write budgets", "Audit log", "Hardening checklist", "What is not claimed"):
        assert heading in page.words


def test_hostile_names_are_quoted_and_not_interpreted() -> None:
    judged = scanned(tally({replace(GCM, name=HOSTILE): 3}, resource=HOSTILE))
    generation = replace(judged.generation, resources=((HOSTILE, (replace(GCM, name=HOSTILE),)),))
    campaign = overview(replace(CAMPAIGN, because=HOSTILE, options=replace(CAMPAIGN.options, reason=HOSTILE)))
    facts = report_facts(
        SubjectKind.CAMPAIGN, judged=judged, generation=generation, campaign=campaign, made_by=HOSTILE, names=True
    )
    page = require_harmless(page_of(report_document(facts)))
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert {tag for tag, _ in page.elements} & {"b"} == {"b"}, "the page's own"


def test_a_command_in_a_sentence_is_code_and_the_rest_stays_escaped() -> None:
    told = overview(replace(CAMPAIGN, because="`rewrap <run>` & more"))
    facts = report_facts(SubjectKind.CAMPAIGN, campaign=told, trail=())
    assert "<code>rewrap &lt;run&gt;</code> &amp; more" in page_of(report_document(facts))


def test_the_numbers_of_the_document_are_on_the_page() -> None:
    document = json.loads(json.dumps(report_document(report_facts(SubjectKind.ROTATION))))
    words = page_of(document)
    for number in (document["proof"]["revision"], document["scan"]["objects"], document["audit_log"]["entries"]):
        assert f">{number:,}</b>" in words
    assert document["audit_log"]["last"]["hash"] in words
    assert document["configuration"]["file_hash"] in words
