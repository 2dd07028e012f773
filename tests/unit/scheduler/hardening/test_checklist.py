"""The hardening checklist as a whole: its order, its counts, and the pages that name its checks."""

from __future__ import annotations

import re
from pathlib import Path

from kube_rewrap.scheduler.hardening.checklist import CHECKS, judge, summarise
from tests.unit.scheduler.hardening.cluster import (
    GOOD,
    IDENTITY,
    IDS,
    OF_KMS,
    ONLY_IDENTITY,
    PASS,
    WITH_OLD,
    entries,
    facts,
    file,
    line,
)


def test_a_good_cluster_passes_every_check_without_a_remedy() -> None:
    checks = judge(GOOD)
    assert [(check.id, check.state, check.remedy) for check in checks] == [(name, PASS, "") for name in IDS]
    assert all(check.reason for check in checks)
    assert summarise(checks) == {"pass": len(CHECKS), "warn": 0, "fail": 0, "unknown": 0}


def test_one_spoiled_point_spoils_no_other() -> None:
    checks = judge(file(mode=0o644))
    assert [check.id for check in checks if check.state is not PASS] == ["file-mode"]
    assert summarise(checks) == {"pass": len(CHECKS) - 1, "warn": 0, "fail": 1, "unknown": 0}


def test_many_names_are_cut_short() -> None:
    names = [f"r{number}.example.com" for number in range(8)]
    check = line(facts(entries((names, [IDENTITY]))), "primary-encrypts")
    assert check.reason.startswith(
        "r0.example.com, r1.example.com, r2.example.com, r3.example.com, r4.example.com and 3"
    )


def test_the_pages_name_every_check_and_no_other() -> None:
    docs = Path(__file__).parents[4] / "docs"
    [section] = re.findall(r"^## audit\n(.*?)^## ", (docs / "cli.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    table = section[section.index("| `id` |") :]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)[1:] == IDS
    hardening = (docs / "hardening.md").read_text("utf-8")
    assert [name for name in IDS if f"`{name}`" not in hardening] == []


def test_no_key_byte_is_in_a_line() -> None:
    assert "CanaryKey" not in repr([judge(given) for given in (GOOD, WITH_OLD, OF_KMS, ONLY_IDENTITY)])
