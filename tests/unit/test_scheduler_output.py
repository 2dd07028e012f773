"""Nothing that somebody else wrote is obeyed by the operator's terminal."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from scheduler.cli.main import main
from scheduler.cli.output import complain, print_json, print_table, say

COMMANDS = Path(__file__).parents[2] / "scheduler" / "cli"
CLEAR = "\x1b[2J\x9b2J\x07\u202e"
SPELLED = r"\x1b[2J\x9b2J\x07\u202e"

# The content of a file, for the operator to put elsewhere. A configuration that is accepted holds no control character.
BYTE_TRUE = {"rotate_command.py": 1}


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command sends logs to the stderr of its test."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    root.handlers = before
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "arguments",
    [
        [CLEAR],
        ["run", CLEAR],
        ["run", f"--{CLEAR}"],
        ["run", "--rate", CLEAR],
        ["check", f"/nonexistent/{CLEAR}"],
        ["status", "--encryption-config", f"/nonexistent/{CLEAR}"],
        ["status", "--settings", f"/nonexistent/{CLEAR}", "--encryption-config", "x"],
        ["status", "--endpoints", f"nonsense://{CLEAR}", "--encryption-config", "/dev/null"],
        ["campaign", "show", CLEAR],
        ["keygen", CLEAR],
        ["-o", "json", "check", f"/nonexistent/{CLEAR}"],
        ["check", f"/nonexistent/{CLEAR}", "-o", "json"],
    ],
    ids=lambda words: " ".join(words).replace(CLEAR, "CLEAR"),
)
@pytest.mark.parametrize("traceback", ["", "1"], ids=["message", "traceback"])
def test_an_argument_is_spelled_out(
    arguments: list[str], traceback: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWRAP_TRACEBACK", traceback)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert not set(said.out + said.err) & set(CLEAR.replace("[2J", "").replace("2J", ""))


def test_every_door_spells_out_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{CLEAR}")
    complain(f"b\n{CLEAR}")
    print_table(["NAME"], [[f"c{CLEAR}"]])
    assert capsys.readouterr() == (f"a{SPELLED}\nNAME\nc{SPELLED}\n", f"b\n{SPELLED}\n")
    print_json({"name": CLEAR})
    assert capsys.readouterr().out.isascii()


def test_no_command_goes_by_another_door() -> None:
    found: dict[str, int] = {}
    for file in sorted(COMMANDS.glob("*.py")):
        if file.name == "output.py":
            continue
        writes = sum(
            ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc"}
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call)
        )
        found |= {file.name: writes} if writes else {}
    assert found == BYTE_TRUE
