"""How text reaches the operator: one JSON document, or lines of plain text on stdout; what went wrong on stderr.

The one door: names in etcd, in a configuration and in arguments may hold what a terminal would obey. Nothing else in
the command line writes to either stream. The bytes of a file that `rotate --manual` hands out stay as they are.

What goes to stdout is flushed at once: a command may go on to wait for hours, and stdout may be a pipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


def print_json(document: object, indent: int | None = 2) -> None:
    """Write the one document of `-o json`, in ASCII."""
    json.dump(document, sys.stdout, indent=indent)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows under their heads, columns as wide as their widest cell, numbers to the right."""
    lines = [[str(head) for head in heads], *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [_padded(cell, width) for cell, width in zip(line, widths, strict=True)]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.flush()


def say(line: str = "") -> None:
    """Write one line."""
    sys.stdout.write(_printable(line) + "\n")
    sys.stdout.flush()


@contextmanager
def stdout_for_files() -> Iterator[TextIO]:
    """Say everything on stderr meanwhile; yields stdout, where only `hand_out` writes then."""
    stdout = sys.stdout
    with redirect_stdout(sys.stderr):
        yield stdout


def hand_out(content: bytes, name: str, stdout: TextIO) -> None:
    """Write a file to stdout, byte for byte, and to stderr a mark before and behind it: each a line of its own."""
    ending = "" if content.endswith(b"\n") else ", no newline at its end"
    complain(f"----- BEGIN {name}: {len(content)} bytes on stdout{ending} -----")
    # A configuration that is accepted holds no control character.
    stdout.write(content.decode())
    stdout.flush()
    if ending and stdout.isatty():
        complain("")
    complain(f"----- END {name} -----")


def complain(*lines: str) -> None:
    """Write what went wrong to stderr. A line break inside a line is spelled out: a log may be read there."""
    sys.stderr.write("".join(_printable(line, sys.stderr) + "\n" for line in lines))


def ask(question: str) -> str:
    """Return what an operator answers. Raises EOFError where nobody does."""
    return input(_printable(question))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _printable(str(value))


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if cell.replace(",", "").isdigit() else cell.ljust(width)


def _printable(text: str, stream: TextIO | None = None) -> str:
    """Return text that any terminal takes: bytes that are not UTF-8, and control characters, spelled out."""
    cleaned = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
    encoding = (stream or sys.stdout).encoding or "utf-8"
    return cleaned.encode(encoding, "backslashreplace").decode(encoding)
