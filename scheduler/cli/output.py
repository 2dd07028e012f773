"""How results reach the operator: one JSON document, or tables of plain text, on stdout.

Each of them is flushed at once: a command may go on to wait for hours, and stdout may be a pipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence


def print_json(document: object) -> None:
    """Write the one document of `-o json`."""
    json.dump(document, sys.stdout, indent=2)
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


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _printable(str(value))


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if cell.replace(",", "").isdigit() else cell.ljust(width)


def _printable(text: str) -> str:
    """Return text that any terminal takes: bytes that are not UTF-8, and control characters, spelled out."""
    cleaned = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )
    return cleaned.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
