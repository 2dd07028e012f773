"""What etcd itself says of its keys, by Range: what a reading of its file is compared with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

from kube_rewrap.worker.backups.snapshot import Snapshot, State, open_snapshot
from tests.servers.gateway import Gateway

_EVERYTHING = base64.b64encode(b"\0").decode()


class Stored(NamedTuple):
    """One state of one key, as both sides name it."""

    key: bytes
    value: bytes
    mod_revision: int
    version: int
    lease: int


def range_of(gateway: Gateway, revision: int = 0) -> set[Stored]:
    """Every key at a revision (0 = now)."""
    request = {"key": _EVERYTHING, "range_end": _EVERYTHING, "revision": str(revision)}
    return {
        Stored(
            base64.b64decode(one["key"]),
            base64.b64decode(one.get("value", "")),
            int(one["mod_revision"]),
            int(one["version"]),
            int(one.get("lease", 0)),
        )
        for one in gateway.call("/v3/kv/range", request).get("kvs", [])
    }


def everything_written(gateway: Gateway, compacted: int) -> set[Stored]:
    """Every state that etcd can still show: all at the compaction, and what each later revision wrote."""
    found = range_of(gateway, compacted) if compacted else set()
    for revision in range(compacted + 1, gateway.revision() + 1):
        found |= {one for one in range_of(gateway, revision) if one.mod_revision == revision}
    return found


def stored(state: State) -> Stored:
    return Stored(state.key, state.value, state.mod_revision, state.version, state.lease)


class Reading(NamedTuple):
    """What a file says, read to its end."""

    snapshot: Snapshot
    newest: set[Stored]
    all: set[Stored]


def read(file: Path) -> Reading:
    with open_snapshot(str(file)) as snapshot:
        states = list(snapshot.states())
    newest = [stored(one) for one in states if one.is_newest]
    found = Reading(snapshot, set(newest), {stored(one) for one in states})
    assert (len(found.newest), len(found.all)) == (len(newest), len(states)), "a state was read twice"
    return found


def database_of(directory: Path) -> Path:
    """The file of the one member that has its data in a directory."""
    [file] = directory.rglob("member/snap/db")
    return file
