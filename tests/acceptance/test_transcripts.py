"""The transcripts in README.md and docs/ are what the program prints; figures, hashes and times are masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import ROOT, Command
from tests.servers.etcd import EtcdVersion
from tests.servers.redis import REDIS_SERVER

CUT = "[...]"
ETCD = ("--etcd", str(EtcdVersion.V3_5.binary))
REDIS = ("--redis", str(REDIS_SERVER))
# Masks do not change the width of a table's cells: a demonstration's figures have as many digits in each run.
MASKS = (
    (r"\b\d{8}-\d{6}-[0-9a-f]{6}\b", "CAMPAIGN"),
    (r"\b[0-9a-f]{16}\b", "FINGERPRINT"),
    (r"(?<![\w.-])\d[\d,.]*(e-\d+)?", "N"),
)


def masked(line: str) -> str:
    for pattern, mask in MASKS:
        line = re.sub(pattern, mask, line)
    return line


def code_blocks(page: Path) -> list[list[str]]:
    """The indented blocks of a page, each as its lines without the indentation and without empty ones."""
    blocks: list[list[str]] = [[]]
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line and blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def parts_of(block: list[str]) -> Iterator[list[str]]:
    """The lines between two cuts, which the program prints one directly after another."""
    part: list[str] = []
    for line in block:
        if line == CUT:
            yield part
            part = []
        else:
            part.append(masked(line))
    yield part


def place_of(part: list[str], printed: list[str], start: int) -> int | None:
    """Where a part ends in what was printed, from a line on; None where it is not."""
    for at in range(start, len(printed) - len(part) + 1):
        pairs = zip(part, printed[at:], strict=False)
        if all(line == said or (line.endswith(CUT) and said.startswith(line[: -len(CUT)])) for line, said in pairs):
            return at + len(part)
    return None


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("flags", "sign"),
    [
        (ETCD, "Filling it with 6,000 objects"),
        (("--service", *ETCD, *REDIS), "Filling etcd with 6,000 objects"),
    ],
    ids=["make demo", "make demo-service"],
)
def test_the_transcript_of_the_readme_is_what_the_demonstration_prints(
    tmp_path: Path, flags: tuple[str, ...], sign: str
) -> None:
    [block] = [block for block in code_blocks(ROOT / "README.md") if any(line.startswith(sign) for line in block)]
    ended = Command(tmp_path).run("demo", *flags, seconds=150)
    assert ended.code == 0, ended.stderr
    printed = [masked(line) for line in ended.stdout.splitlines() if line]
    at = 0
    for part in parts_of(block):
        end = place_of(part, printed, at)
        assert end is not None, "\n".join(["README.md has", *part, "where the program prints", *printed[at:]])
        at = end


def heads_of(lines: list[str]) -> set[tuple[str, ...]]:
    """The heads of tables about keys."""
    return {
        tuple(re.split(" {2,}", line))
        for line in lines
        if re.match(r"(FINGERPRINT|PROVIDER|RESOURCE) {2,}[A-Z]{3,}", line)
    }


def test_tables_of_keys_in_all_pages_have_the_heads_that_the_program_prints(tmp_path: Path) -> None:
    ended = Command(tmp_path).run("demo", *ETCD, "--objects", "200")
    assert ended.code == 0, ended.stderr
    printed = heads_of(ended.stdout.splitlines())
    assert len(printed) == 4  # status, the plan, the proof, keys
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        shown = heads_of([line for block in code_blocks(page) for line in block])
        assert shown <= printed, page
