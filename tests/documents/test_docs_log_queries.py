"""The queries of docs/log-queries.md answer, over logs that a real service wrote (tests/golden/README.md)."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "log-queries.md").read_text("utf-8")
RECORDED = "".join(path.read_text("utf-8") for path in sorted((ROOT / "tests" / "golden" / "logs").glob("*.jsonl")))
LINES: list[dict[str, Any]] = [json.loads(line) for line in RECORDED.splitlines()]
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
JQ = {title: re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for title, text in SECTIONS}
LOGQL = [query for _, text in SECTIONS for query in re.findall(r"```logql\n(.*?)\n```", text)]

# The loose ends of a line: times, hosts' processes, campaigns.
ANSWERS = {
    "What did the campaigns do?": [
        r"\S+\t\S+\tcampaign.planned\t.+0 of 3000 objects are not under",
        r"sweep|under another",
    ],
    "How far is the campaign?": [
        r"\S+ proving: 100 %, 2941 of 2941, [\d.]+/s, \? s left, 0 batches left, 121 conflicts, 1"
    ],
    "How did the campaigns end?": [
        r"\S+ incomplete after \d+ s: \d{4} rewritten, 1 in quarantine: .+",
        r"\S+ complete after",
    ],
    "What went wrong?": [
        r"error scan\.unreadable, 2 times, last \S+: 1 objects of secrets can't be read",
        r"warning broker\.unavailable, 2 times",
        r"warning campaign\.finished, 1 times",
        r"warning drift\.found, 2 times",
    ],
    "What is in quarantine, and why?": [r"\S+: 1 of secrets: \w+$"],
    "Who wrote?": [r"node-1:\d+ worker-child: \d+ rewritten in \d+ pages"],
    "Where do clients write meanwhile?": [r"secrets team-000\.\.team-005: 121 conflicts$"],
    "Where is the rotation?": [
        rf"\S+\trotation\.moved\t{step}\t.+"
        for step in ("spread", "promote", "converge", "switch", "rewrap", "prove", "prune", "compact", "done")
    ],
    "What runs, and how is it configured?": [
        r"node-1:\d+ scheduler [\d.]+: .*broker\.url by REWRAP_BROKER",
        r"node-1:\d+ worker [\d.]+: .*pace\.rate by REWRAP_RATE",
    ],
}


def test_each_question_has_an_answer_here() -> None:
    assert sorted(JQ) == sorted(ANSWERS)
    assert {len(queries) for queries in JQ.values()} == {1}


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("question", sorted(ANSWERS))
def test_the_query_for_jq_answers(question: str) -> None:
    [query] = JQ[question]
    done = subprocess.run(shlex.split(query), input=RECORDED, capture_output=True, text=True, timeout=30, check=True)
    for answer in ANSWERS[question]:
        assert re.search(f"^.*{answer}", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("query", LOGQL)
def test_the_query_for_loki_filters_by_events_and_fields_that_are_there(query: str) -> None:
    """Loki's own parser is not asked. Selected lines have every field that the query names."""
    selector, pipeline = re.search(r"(\{[^{}]*\}) \| json( .*)", query).groups()  # type: ignore[union-attr]
    assert re.fullmatch(r'\{namespace="kube-rewrap"\}', selector)
    found = LINES
    for name, operator, text in re.findall(r'\| (\w+)(=~|!~|=|!=)"([^"]*)"', pipeline):
        found = [line for line in found if name in line and matches(str(line[name]), operator, text)]
    assert found
    templates, unwrapped, grouped = (
        re.findall(r"\{\{\.(\w+)\}\}", pipeline),
        re.findall(r"unwrap (\w+)", pipeline),
        re.findall(r"by \(([\w, ]+)\)", query),
    )
    names = {*templates, *unwrapped, *(name for group in grouped for name in group.split(", "))}
    for name in (name.removesuffix("_extracted") for name in names):
        assert any(name in line for line in found), name
    for name in unwrapped:
        assert all(isinstance(line[name], int | float) for line in found)


def matches(value: str, operator: str, text: str) -> bool:
    """Whether a label filter of LogQL passes a value; its regular expressions are anchored."""
    is_equal = bool(re.fullmatch(text, value)) if "~" in operator else value == text
    return is_equal is not operator.startswith("!")


def test_recorded_events_and_their_levels_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "log-events.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ((?:debug|info|warning|error|, )+) \|", page, re.MULTILINE))
    assert {(line["event"], line["level"]) for line in LINES if line["level"] not in rows[line["event"]]} == set()
    assert {tuple(line)[:5] for line in LINES} == {("event", "level", "timestamp", "role", "process")}
