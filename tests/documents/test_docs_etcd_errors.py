"""The messages that docs/etcd-tls-and-passwords.md explains are those of the program."""

from __future__ import annotations

import re

from tests.acceptance.command import ROOT

PAGE = ROOT / "docs" / "etcd-tls-and-passwords.md"
PLACES = ("config", "worker")


def test_each_message_is_in_the_source() -> None:
    source = "".join(path.read_text() for place in PLACES for path in (ROOT / place).rglob("*.py"))
    cells = re.findall(r"^\| exit \d, (.*?) \|", PAGE.read_text(), re.MULTILINE)
    parts = [part.strip() for cell in cells for said in re.findall(r"`(.*?)`", cell) for part in said.split("…")]
    assert len(cells) == 8
    assert [part for part in parts if part not in source] == []
