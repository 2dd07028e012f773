"""docs/queue.md says what the code does: the same tasks, queues, arguments and limits; its examples are whole."""

from __future__ import annotations

import ast
import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.worker.queue.gate import Message, judge_delivery
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, CONTROL_TASKS, PROVE, REWRITE
from kube_rewrap.worker.records.request import ARGUMENTS, start_request

PAGE = (Path(__file__).parents[2] / "docs" / "queue.md").read_text(encoding="utf-8")
EXAMPLES: list[str] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    behind = PAGE.split(f"\n{heading}\n\n", 1)[1]
    table = next(part for part in behind.split("\n\n") if part.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


class Client:
    """Takes what an example pushes."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, dict[str, Any]]] = []

    def lpush(self, queue: str, message: str) -> None:
        self.pushed.append((queue, json.loads(message)))


def test_tasks_and_queues() -> None:
    expected = {f"`{task}`": f"`{CONTROL}`" for task in CONTROL_TASKS}
    expected |= {f"`{task}`": f"`{BATCHES}`" for task in (REWRITE, PROVE)}
    assert {row[0]: row[1] for row in rows("## Tasks")} == expected


def test_the_arguments_of_a_start_and_their_defaults() -> None:
    told = {row[0].strip("`"): row[2].strip("`") for row in rows("### start")}
    assert tuple(told) == ARGUMENTS
    given = {name: json.loads(default) for name, default in told.items() if name != "id"}
    assert start_request(given, "fallback", "") == start_request({}, "fallback", "")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_python(example: str) -> None:
    ast.parse(example)


def test_the_message_by_redis_alone() -> None:
    definitions, _ = next(text for text in EXAMPLES if "lpush" in text).split("\n\n\nclient = ")
    scope: dict[str, Any] = {}
    exec(definitions, scope)  # noqa: S102 - the page's own example
    client, arguments = Client(), {"id": "monday-1", "resources": ["secrets"]}
    scope["send"](client, "rewrap.campaign.start", arguments)
    [(queue, message)] = client.pushed
    assert queue == message["properties"]["delivery_info"]["routing_key"] == CONTROL
    assert json.loads(base64.b64decode(message["body"])) == [[], arguments, {}]
    assert message["headers"]["task"] in CONTROL_TASKS
    passed = judge_delivery(json.dumps(message).encode(), queue, datetime.now(UTC))
    assert isinstance(passed, Message)
    assert passed.arguments == arguments
    assert start_request(arguments, "", "").id == "monday-1"
