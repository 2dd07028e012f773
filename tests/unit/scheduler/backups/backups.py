"""Backups as a catalogue has them."""

from __future__ import annotations

from typing import Any

from kube_rewrap.scheduler.backups.catalogue import Backup, moment
from kube_rewrap.worker.verdict import KeyRef

NOW = 1_800_000_000.0
DAY = 86_400.0
OLD = KeyRef("aescbc", "old", "0123456789abcdef")
NEW = KeyRef("aesgcm", "new", "fedcba9876543210")
KEK = KeyRef("kms", "cloud", "00112233aabbccdd")


def backup(number: int = 1, *, made: float = NOW - DAY, expires: float | None = None, **fields: Any) -> Backup:
    """A readable backup under NEW; `fields` replace others."""
    given = {
        "digest": f"{number:064x}",
        "made": moment(made),
        "added": moment(made + 60),
        "file": f"/backup/{number}.db",
        "where": "",
        "bytes": 100,
        "revision": 10 + number,
        "readable": True,
        "objects": 5,
        "unreadable": 0,
        "not_proven": 0,
        "keys": (NEW,),
        "history_keys": (),
        "unknown_keys": (),
        "expires": None if expires is None else moment(expires),
    }
    return Backup(**{**given, **fields})
