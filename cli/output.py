"""All output of commands: one JSON document, or lines of plain text on stdout; errors on stderr.

No other module of the command line writes to either stream, since names in etcd, in a configuration and in arguments
may hold control characters, which this one escapes. It writes a file's content for `rotate --manual` unchanged.

It flushes stdout after each write: a command may wait for hours afterwards, and stdout may be a pipe.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from shutil import get_terminal_size
from textwrap import wrap
from typing import TextIO

_NARROWEST = 20
"""Columns below which a wrapped column is no longer read well."""

_HASH = re.compile(r"\b(sha256:[0-9a-f]{16})[0-9a-f]{48}\b")

_INDENT = "  "
"""Before the lines of a group."""


def print_json(document: object, indent: int | None = 2) -> None:
    """Write the one document of `-o json`, in ASCII."""
    json.dump(document, sys.stdout, indent=indent)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under their heads, columns as wide as their widest cell, numbers to the right.

    On a terminal that is too narrow, the last column wraps; where that does not help, rows with the same first cell
    stand below it; where that does not help either, each row is a block of its own.
    """
    lines = [[str(head) for head in heads], *([_cell(cell) for cell in row] for row in rows)]
    room, rest = _room(), [line[1:] for line in lines]
    if not room or _fits(lines, room):
        _write_lines(lines, room)
    elif len({line[0] for line in lines}) < len(lines) and _fits(rest, room - len(_INDENT)):
        _write_lines(rest, room, [line[0] for line in lines])
    else:
        for number, line in enumerate(lines[1:]):
            sys.stdout.write("\n" if number else "")
            print_fields(zip(lines[0], line, strict=True))
    sys.stdout.flush()


def _fits(lines: Sequence[Sequence[str]], room: int) -> bool:
    """Return whether all columns have room, the last one at least wrapped."""
    *others, last = _widths(lines)
    return room - sum(others) - 2 * len(others) >= min(last, _NARROWEST)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _write_lines(lines: Sequence[Sequence[str]], room: int, headings: Sequence[str] = ()) -> None:
    """Write lines that fit into `room` columns, 0 = no limit. `headings`, one a line, stand once above equal ones."""
    widths = _widths(lines)
    indent = _INDENT if headings else ""
    before = len(indent) + sum(widths[:-1]) + 2 * (len(widths) - 1)
    last = room - before if room else widths[-1]
    for number, line in enumerate(lines):
        if headings and (number == 0 or headings[number] != headings[number - 1]):
            sys.stdout.write(headings[number] + "\n")
        first, *more = wrap(line[-1], last, break_on_hyphens=False) if len(line[-1]) > last else [line[-1]]
        cells = [_padded(cell, width) for cell, width in zip([*line[:-1], first], widths, strict=True)]
        sys.stdout.write((indent + "  ".join(cells)).rstrip() + "\n")
        sys.stdout.writelines(" " * before + part + "\n" for part in more)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Write one field a line, the values in one column; on a terminal, a value that is too long for its line wraps."""
    cells = [(name, _cell(value)) for name, value in fields]
    width = max(len(name) for name, _ in cells)
    for name, value in cells:
        _write_hanging(f"{name.ljust(width)}  {value}".rstrip(), width + 2)
    sys.stdout.flush()


def print_sentence(sentence: str) -> None:
    """Write a sentence; on a terminal, one that is too long for its line wraps between words."""
    _write_hanging(printable(sentence), 0)
    sys.stdout.flush()


def print_items(items: Iterable[str]) -> None:
    """Write sentences, each indented; on a terminal, one that is too long for its line wraps between words."""
    for item in items:
        _write_hanging(f"  {printable(item)}", 4)
    sys.stdout.flush()


def _write_hanging(line: str, indent: int) -> None:
    """Write a line; where a terminal is too narrow for it, its further lines begin after `indent` spaces.

    No word is broken, so that a path or a hash can be copied.
    """
    room = _room()
    if room and len(line) > room and room - indent >= _NARROWEST:
        # The part before the indent may hold several spaces in a row, which `wrap` would treat as one break.
        rest = wrap(line[indent:], room - indent, break_on_hyphens=False, break_long_words=False)
        line = line[:indent] + ("\n" + " " * indent).join(rest)
    sys.stdout.write(line + "\n")


def _room() -> int:
    """Return the columns of the terminal; 0 where stdout is none."""
    return get_terminal_size().columns if sys.stdout.isatty() else 0


def say(line: str = "") -> None:
    """Write one line."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


@contextmanager
def stdout_for_files() -> Iterator[TextIO]:
    """Redirect `say` to stderr while the block runs; yields stdout, to which only `print_file` writes then."""
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        yield stdout


def print_file(content: bytes, name: str, stdout: TextIO) -> None:
    """Write a file to stdout, byte for byte, and to stderr a mark before and after it: each a line of its own."""
    ending = "" if content.endswith(b"\n") else ", no newline at its end"
    print_to_stderr(f"----- BEGIN {name}: {len(content)} bytes on stdout{ending} -----")
    # A configuration that is accepted holds no control character.
    stdout.write(content.decode())
    stdout.flush()
    if ending and stdout.isatty():
        print_to_stderr("")
    print_to_stderr(f"----- END {name} -----")


def print_page(content: str) -> None:
    """Write a whole document in ASCII whose maker has escaped what it quotes."""
    sys.stdout.write(content)
    sys.stdout.flush()


def print_to_stderr(*lines: str) -> None:
    """Write lines to stderr. Escapes line breaks inside a line, so that it can't forge lines of a log."""
    sys.stderr.write("".join(printable(line, sys.stderr) + "\n" for line in lines))


def ask(question: str) -> str:
    """Return an operator's answer. Raises EOFError at the end of the input."""
    return input(printable(question))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(str(value))


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if cell.replace(",", "").isdigit() else cell.ljust(width)


def with_short_hashes(text: str) -> str:
    """Return a sentence with 16 digits of each file's hash: enough to tell files apart, and `-o json` has all 64."""
    return _HASH.sub(r"\1", text)


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return text that is safe on a terminal: escapes bytes that are not UTF-8, and control characters."""
    cleaned = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
    encoding = (stream or sys.stdout).encoding or "utf-8"
    return cleaned.encode(encoding, "backslashreplace").decode(encoding)
