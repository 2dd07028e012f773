"""docs/log-events.md names the events that the code logs, with their levels, and no others."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = {"debug", "info", "warning", "error", "critical"}
ROWS = re.findall(
    r"^\| `([a-z_.]+)` \| ((?:debug|info|warning|error|, )+) \|",
    (ROOT / "docs" / "log-events.md").read_text("utf-8"),
    re.MULTILINE,
)
TOLD = {event: set(levels.split(", ")) for event, levels in ROWS}

# Their names are put together, or passed on, where they are logged.
COMPOSED = {
    "campaign.paused": "info, warning",
    "campaign.continued": "info",
    "request.accepted": "info",
    "request.refused": "info",
    "rotation.begun": "info",
    "rotation.edited": "info",
    "rotation.moved": "info",
    "rotation.held": "error",
    "key.exhausted": "error",
}


def calls() -> Iterator[tuple[str, set[str]]]:
    """Every logged event that is written out, with the levels that its call may have."""
    for package in ("config", "worker", "scheduler"):
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ast.parse(file.read_text("utf-8"))
            for node in ast.walk(module):
                match node:
                    case ast.Call(func=function, args=[ast.Constant(value=str(event)), *_]) if levels := levels_of(
                        function, module
                    ):
                        yield event, levels


def levels_of(function: ast.expr, module: ast.Module) -> set[str]:
    """`_log.info`, `(_log.warning if … else _log.error)`, or a name that one of these was given before."""
    if isinstance(function, ast.Name):
        given = (
            node.value for node in ast.walk(module) if isinstance(node, ast.Assign) and is_named(node, function.id)
        )
        return set().union(*(levels_of(value, module) for value in given if isinstance(value, ast.IfExp)))
    methods = (node for node in ast.walk(function) if isinstance(node, ast.Attribute))
    return {one.attr for one in methods if one.attr in LEVELS and ast.unparse(one.value) == "_log"}


def is_named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def logged() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for event, levels in [*calls(), *((event, set(level.split(", "))) for event, level in COMPOSED.items())]:
        found[event] |= levels
    return dict(found)


LOGGED = logged()


def test_each_event_has_one_row() -> None:
    assert sorted(event for event, _ in ROWS) == sorted(TOLD)


def test_the_events_are_those_of_the_code() -> None:
    assert sorted(TOLD) == sorted(LOGGED)


@pytest.mark.parametrize("event", sorted(LOGGED))
def test_the_levels_are_those_of_the_code(event: str) -> None:
    assert TOLD[event] == LOGGED[event]
