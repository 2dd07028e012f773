"""Nothing that somebody else wrote is obeyed by the operator's terminal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from kube_rewrap.cli.main import main
from kube_rewrap.cli.output import (
    print_file,
    print_json,
    print_table,
    print_to_stderr,
    say,
    stdout_for_files,
    with_short_hashes,
)

DOORS = {"print", "sys.stdout.write", "sys.stderr.write", "stdout.write", "out.write", "traceback.print_exc"}
COMMANDS = Path(__file__).parents[3] / "cli"
CLEAR = "\x1b[2J\x9b2J\x07\u202e\r\n{}"
SPELLED = r"\x1b[2J\x9b2J\x07\u202e\r\n{}"


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
    assert not set(said.out + said.err) & set("\x1b\x9b\x07\u202e\r")
    # Nor does it begin a line, which whoever reads the log would take for one of ours.
    assert not [line for line in (said.out + said.err).split("\n") if line.startswith("{}")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rotate", "--write-to", "next.yaml"], "--write-to: needs --manual"),
        (["rotate", "resume", "--prune"], "--prune: is for a new rotation"),
        (["rotate", "status", "--provider", "aesgcm"], "--provider: is for a new rotation"),
        (["rotate", "abort", "--resource", "secrets"], "--resource: is for a new rotation"),
        (["campaign", "wait", "one", "--timeout", "nan"], "--timeout: is not a number of seconds, 0 or more"),
        (["campaign", "wait", "one", "--timeout", "-1"], "--timeout: is not a number of seconds, 0 or more"),
        (["campaign", "start", "--namespace", "A"], "namespaces must be names such as kube-system"),
        (["check", ""], "rewrap: : it can't be read"),
        (["converged", ""], "rewrap: : it can't be read"),
        (["status", "--state-prefix", "/a\tb", "--encryption-config", "x"], "keyspace: a prefix must be printable"),
        (["rotate", "rezume"], "'rezume' is none of start, resume, status, pause, abort; did you mean resume?"),
        (["stauts"], "did you mean status?"),
        (["status", "--endpiont", "x"], "unrecognized arguments: --endpiont x; did you mean --endpoints?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_would_be_taken_for_something_else_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWRAP_ENCRYPTION_CONFIG", "/dev/null")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_every_door_spells_out_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{CLEAR}")
    print_to_stderr("b", CLEAR)
    print_table(["NAME"], [[f"c{CLEAR}"]])
    assert capsys.readouterr() == (f"a{SPELLED}\nNAME\nc{SPELLED}\n", f"b\n{SPELLED}\n")
    print_json({"name": CLEAR})
    assert capsys.readouterr().out.isascii()


def test_no_command_goes_by_another_door() -> None:
    found: list[str] = []
    for file in sorted(COMMANDS.rglob("*.py")):
        if file.name == "output.py":
            continue
        calls = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
        found += [f"{file.name}: {ast.unparse(call)}" for call in calls if ast.unparse(call.func) in DOORS]
    assert found == []


def test_what_is_handed_out_is_alone_on_stdout_and_marked_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with stdout_for_files() as stdout:
        say("plan")
        print_file(b"a: 1\n", "one", stdout)
        print_file(b"{}", "two", stdout)
        print_table(["STEP"], [["add"]])
    said = capsys.readouterr()
    assert said.out == "a: 1\n{}"
    assert said.err.splitlines() == [
        "plan",
        "----- BEGIN one: 5 bytes on stdout -----",
        "----- END one -----",
        "----- BEGIN two: 2 bytes on stdout, no newline at its end -----",
        "----- END two -----",
        "STEP",
        "add",
    ]


def test_a_sentence_shows_enough_of_a_files_hash() -> None:
    whole = f"sha256:{'0123456789abcdef' * 4}"
    assert with_short_hashes(f"it runs {whole}; and 1 more") == "it runs sha256:0123456789abcdef; and 1 more"
    assert with_short_hashes(f"{whole}0 is no hash") == f"{whole}0 is no hash"
