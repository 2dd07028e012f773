"""The screen of `rewrap top` at several sizes, line by line, as files in `screens/` have it.

After a change that is meant to show: `REDRAW=1 pytest tests/unit/cli/test_top_screen.py`, and look at the difference.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, Group

from kube_rewrap.cli.top.screen import Form, bar, draw, duration, share_out
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.top.facts import Facts
from kube_rewrap.scheduler.top.snapshot import Snapshot, snapshot
from kube_rewrap.worker.records.holder import Handback
from tests.unit.scheduler.top.cluster import BUSY, IDLE, PROVING, RUNNING

SCREENS = Path(__file__).parent / "screens"
SIZES = [(80, 24), (60, 20), (120, 40)]
AWAY = "no etcd endpoint of http://127.0.0.1:2379 answered: connection refused"


def shown(facts: Facts) -> Snapshot:
    return snapshot(facts, {}, Settings())


def rendered(found: Snapshot | None, form: Form, trouble: str = "") -> list[str]:
    """The lines as a console of that size writes them, without styles."""
    stream = io.StringIO()
    console = Console(file=stream, width=form.width, height=form.height, color_system=None, markup=True, emoji=True)
    console.print(Group(*draw(found, trouble, form)))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["busy", "proving", "idle", "away", "first"])
def test_the_screen(name: str, width: int, height: int) -> None:
    found = {"busy": shown(BUSY), "proving": shown(PROVING), "idle": shown(IDLE), "away": shown(BUSY), "first": None}[
        name
    ]
    form = Form(width, height, is_live=True)
    lines = rendered(found, form, AWAY if name in {"away", "first"} else "")
    file = SCREENS / f"{name}-{width}x{height}.txt"
    if os.environ.get("REDRAW"):
        file.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
    assert [line.rstrip() for line in lines] == file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("height", [1, 2, 5, 8, 11, 12, 15, 24, 60])
@pytest.mark.parametrize("width", [1, 10, 30, 60, 80, 200])
def test_no_size_is_exceeded(width: int, height: int) -> None:
    for facts in (BUSY, PROVING, IDLE):
        for trouble in ("", AWAY):
            lines = draw(shown(facts), trouble, Form(width, height))
            assert len(lines) <= height
            assert max(line.cell_len for line in lines) <= width


def test_wide_characters_are_counted_by_their_cells() -> None:
    wide = replace(BUSY.keys.budgets[0], names=("鍵" * 40,))
    found = shown(replace(BUSY, keys=replace(BUSY.keys, budgets=(wide,))))
    lines = draw(found, "", Form(80, 24))
    assert max(line.cell_len for line in lines) <= 80
    assert any("鍵" in line.plain for line in lines)


def test_a_terminal_without_unicode_gets_ascii_alone() -> None:
    wide = replace(BUSY.keys.budgets[0], names=("schlüssel",))
    found = shown(replace(BUSY, keys=replace(BUSY.keys, budgets=(wide,))))
    lines = draw(found, "", Form(80, 24, ascii_only=True))
    assert all(line.plain.isascii() for line in lines)
    assert any("#" in line.plain for line in lines)


def test_texts_of_etcd_are_no_markup_and_control_no_terminal() -> None:
    evil = "[bold red]x[/] :warning: \x1b[2J\r\n\u202e\x07"
    budgets = tuple(replace(one, names=(evil,)) for one in BUSY.keys.budgets)
    worker = replace(BUSY.handbacks[0].worker, host="h")
    hostile = replace(
        BUSY,
        keys=replace(BUSY.keys, budgets=budgets),
        campaigns=(replace(RUNNING, campaign=replace(RUNNING.campaign, because=evil, id=evil)),),
        handbacks=(Handback(worker, evil),),
        events=tuple(replace(one, event=evil, at=evil, campaign=evil, detail={"because": evil}) for one in BUSY.events),
        gaps=(evil, evil),
    )
    text = "\n".join(rendered(shown(hostile), Form(200, 60), trouble=evil))
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert "[bold red]x[/] :warning: \\x1b[2J\\r\\n\\u202e\\x07" in text


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([1, 2, 3], 10, [1, 2, 3]),
        ([5, 5, 5], 6, [2, 2, 2]),
        ([9, 1, 9], 7, [3, 1, 3]),
        ([3, 3], 0, [0, 0]),
        ([3, 3], -2, [0, 0]),
        ([2, 2], 1, [1, 0]),
        ([], 5, []),
    ],
)
def test_lines_are_shared_out_in_turns(wanted: list[int], room: int, given: list[int]) -> None:
    assert share_out(wanted, room) == given


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.4, "0 s"),
        (99, "99 s"),
        (125, "2 min 05 s"),
        (7_260, "2 h 01 min"),
        (10**6, "11 days"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.0, "----"), (0.001, "#---"), (0.5, "##--"), (0.999, "###-"), (1.0, "####"), (2.0, "####")]
)
def test_a_bar_is_full_at_the_end_only(share: float, drawn: str) -> None:
    assert bar(share, 4, "", ascii_only=True).plain == drawn
