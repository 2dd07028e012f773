"""What a proof found becomes a line: no key that the file may need is left out."""

from __future__ import annotations

from typing import Any

from kube_rewrap.scheduler.backups.cataloguing import backup_of
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.worker.backups.missing import MissingKey
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason
from tests.unit.scheduler.backups.backups import KEK, NEW, NOW, OLD

PLAIN = KeyRef("identity", "", "-")


def inventory(*keys: KeyRef, unknown: tuple[str, ...] = (), closed: Quarantine | None = None) -> Inventory:
    tally = ResourceTally("secrets", NEW, (NEW,))
    for key in keys:
        tally.add_readable(key, 100, 1)
    if closed is not None:
        tally.add_unreadable(b"/registry/secrets/a/b", closed)
    return Inventory(9, (tally,), unknown)


def report(newest: Inventory, history: Inventory | None = None, **fields: Any) -> BackupReport:
    given: dict[str, Any] = {
        "file": "b.db",
        "bytes": 100,
        "modified": NOW,
        "sha256": "a" * 64,
        "has_hash": True,
        "revision": 9,
        "compacted": 1,
        "cluster_version": None,
        "members": (),
        "alarms": (),
        "tombstones": 0,
        "keys": 5,
        "missing": (),
        "missing_in_history": (),
        "unproven": {},
        "away": (),
        "is_compacting": False,
        "outside": ("/a/",),
    }
    return BackupReport(newest=newest, history=history or Inventory(9, ()), **{**given, **fields})


def test_keys_are_noted_once_and_identity_is_none() -> None:
    line = backup_of(report(inventory(OLD, NEW, PLAIN), inventory(OLD, KEK, PLAIN)), "/b.db", NOW, prefix="/registry/")
    assert (line.keys, line.history_keys, line.unknown_keys) == ((OLD, NEW), (KEK,), ())
    assert (line.file, line.prefix, line.readable, line.objects) == ("/b.db", "/registry/", True, 3)
    assert line.outside == ("/a/",)


def test_a_missing_kek_is_known_by_its_key_id_and_a_local_key_by_its_name_alone() -> None:
    unknown = KeyRef("aescbc", "gone", "")
    line = backup_of(
        report(inventory(NEW), missing=(MissingKey(KEK),), missing_in_history=(MissingKey(unknown),)), "/b.db", NOW
    )
    assert (line.keys, line.history_keys, line.unknown_keys) == ((NEW, KEK), (), (unknown,))


def test_older_revisions_at_unknown_paths_may_be_under_any_key() -> None:
    line = backup_of(report(inventory(NEW), inventory(unknown=("/registry/new/",))), "/b.db", NOW)
    assert line.readable
    assert [one.provider for one in line.unknown_keys] == [""]


def test_a_key_that_opened_an_older_revision_is_needed_whatever_that_holds() -> None:
    odd = Quarantine(Reason.NOT_KUBERNETES, "odd", (OLD,))
    assert backup_of(report(inventory(NEW), inventory(closed=odd)), "/b.db", NOW).history_keys == (OLD,)
    wrong = Quarantine(Reason.AUTHENTICATION_FAILED, "wrong", (OLD,))
    assert backup_of(report(inventory(NEW), inventory(closed=wrong)), "/b.db", NOW).history_keys == ()
