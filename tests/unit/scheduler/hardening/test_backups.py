"""The check of backups: facts in, one line out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from kube_rewrap.scheduler.backups.catalogue import Backup, Catalogue, DamagedLine
from kube_rewrap.scheduler.hardening.checklist import judge
from kube_rewrap.scheduler.hardening.facts import DAY, State
from tests.unit.scheduler.backups.backups import backup
from tests.unit.scheduler.hardening.cluster import FAIL, GOOD, NOW, PASS, WARN, line

RECENT, OLD = backup(1, made=NOW - DAY), backup(2, made=NOW - 3 * DAY)
LATER = backup(4, made=NOW + 9 * DAY)
CLOSED = backup(3, made=NOW - DAY / 2, readable=False, unreadable=4)


@dataclass(frozen=True)
class Row:
    says: str
    backups: tuple[Backup, ...]
    state: State
    reason: str
    damaged: tuple[DamagedLine, ...] = ()
    distrust: str = ""


ROWS = [
    Row("a recent one", (OLD, RECENT), PASS, "the newest backup was made 1 days ago and proven readable"),
    Row("an old one", (OLD,), WARN, "made 3 days ago and proven readable, which is more than 2 days"),
    Row("none", (), WARN, "the catalogue has no backup"),
    Row("an expired one", (replace(RECENT, expires=RECENT.made),), WARN, "the catalogue has no backup"),
    Row("the newest is not readable", (RECENT, CLOSED), FAIL, "is not readable whole: 4 objects are unreadable"),
    Row("an older one is not readable", (replace(CLOSED, made=OLD.made), RECENT), PASS, "made 1 days ago"),
    Row("one from the future", (RECENT, backup(4, made=NOW + 9 * DAY)), WARN, "in the future"),
    Row(
        "one from the future that is not readable",
        (RECENT, replace(CLOSED, made=LATER.made)),
        FAIL,
        "not readable whole",
    ),
    Row("a clock that is a little ahead", (RECENT, backup(4, made=NOW + 60)), PASS, "made 0 days ago"),
    Row("another user's", (RECENT,), FAIL, "another user could have written the catalogue", distrust="it is open"),
    Row("a damaged line", (RECENT,), WARN, "lines of the catalogue are damaged: 1", (DamagedLine(2, "0" * 64, "x"),)),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_the_check(row: Row) -> None:
    found = line(replace(GOOD, catalogue=Catalogue(row.backups, row.damaged, distrust=row.distrust)), "backup-age")
    assert found.state is row.state
    assert row.reason in found.reason
    assert bool(found.remedy) is (row.state is not PASS)


def test_without_a_catalogue_there_is_no_line() -> None:
    assert "backup-age" not in [check.id for check in judge(replace(GOOD, catalogue=None))]
