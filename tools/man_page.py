"""Writes docs/rewrap.1, the manual page, from the parser of the command line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.parser import build_parser

PAGE = Path(__file__).parents[1] / "docs" / "rewrap.1"

_EXIT_CODES = {
    Exit.DONE: "done; everything in scope is under its primary key",
    Exit.UNEXPECTED: "unexpected: please report it",
    Exit.USAGE: "the command line, a setting or the configuration is wrong",
    Exit.INCOMPLETE: "not complete: objects are left, or a check failed",
    Exit.REFUSED: "refused, or held: going on would not be safe",
    Exit.UNREACHABLE: "etcd, Redis, a KMS plugin or a kube-apiserver was not reached",
}


def page() -> str:
    """Return the page as roff, the same for every environment and width."""
    with patch.dict("os.environ", {"COLUMNS": "80"}, clear=True):
        return "\n".join(_lines(build_parser())) + "\n"


def _lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ('.TH REWRAP 1 "" "kube-rewrap" "User Commands"', ".SH NAME", "rewrap \\- rewrap Kubernetes objects")
    yield from (".SH SYNOPSIS", ".B rewrap", ".I COMMAND", "[\\fIarguments\\fR]", ".br", ".B kubectl rewrap")
    yield from (".I COMMAND", "[\\fIarguments\\fR]", ".SH DESCRIPTION", _text(parser.description or ""))
    yield ".SH COMMANDS"
    for name, command in _commands(parser):
        yield from _command(name, command)
    yield ".SH EXIT STATUS"
    for code, meaning in _EXIT_CODES.items():
        yield from (".TP", f"\\fB{int(code)}\\fR", meaning)
    yield ".SH ENVIRONMENT"
    yield "Most flags can be given as a variable: REWRAP_ and the flag's name, as in REWRAP_ENCRYPTION_CONFIG."
    yield "REWRAP_TRACEBACK=1 shows where an unexpected error happened."


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a section of its own for a command or for a verb of it."""
    yield from (f".SS {_text(name)}", _text(parser.description or ""))
    for action in parser._actions:  # noqa: SLF001 - argparse shows them nowhere else
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):  # noqa: SLF001
            continue
        yield from (".TP", _signature(action), _text(_help(parser, action)))
    for verb, nested in _commands(parser):
        yield from _command(f"{name} {verb}", nested)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            yield from action.choices.items()


def _signature(action: argparse.Action) -> str:
    choices = "|".join(map(str, action.choices or ()))
    value = f"\\fI{_text(str(action.metavar or choices or action.dest.upper()))}\\fR"
    if not action.option_strings:
        return value
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser.formatter_class(prog=parser.prog)
    return formatter._expand_help(action) if action.help else ""  # noqa: SLF001


def _text(plain: str) -> str:
    """Return the text with roff's own characters escaped, on one line that begins with none of its controls."""
    escaped = re.sub(r"\s+", " ", plain).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} written\n")
