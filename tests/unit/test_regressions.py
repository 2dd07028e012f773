"""Bugs that were found once, each with the smallest scenario that showed it (see tests/README.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, IdentityProvider, ResourceEntry
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.scheduler.registry.discovery import survey
from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Outcome, Put
from kube_rewrap.worker.rate.pressure import WindowSize
from kube_rewrap.worker.rate.window import Window
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.store import MemoryStore

SPACE = Keyspace()


async def test_a_key_that_is_first_spent_while_another_settles_disturbs_nobody() -> None:
    store, one, two = MemoryStore(), KeyRef("aesgcm", "a", "fa"), KeyRef("aesgcm", "b", "fb")
    ledger = Ledger(store, SPACE, BudgetSettings())
    await ledger.first_sight([one, two])
    await ledger.spend(one, 1, 1)
    ledger.landed(one, "secrets", 7)

    async def later() -> None:
        await asyncio.sleep(0)
        await ledger.spend(two, 1, 1)

    await asyncio.gather(ledger.settle(), later())
    assert (await ledger.all())["fa"].own["secrets"].count == 1


class Overtaken(MemoryStore):
    """Applies the next commit, loses its answer, and lets somebody else change the record before we can look."""

    armed = False

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        result = await super().commit(expects, changes)
        if not self.armed or not isinstance(changes[0], Put):
            return result
        self.armed = False
        self.put(changes[0].key, changes[0].value.replace(b'"reserved":', b'"reserved":1'))
        return CommitResult(Outcome.UNKNOWN)


async def test_what_landed_is_never_counted_twice() -> None:
    store, key = Overtaken(), KeyRef("aesgcm", "a", "fa")
    ledger = Ledger(store, SPACE, BudgetSettings())
    await ledger.first_sight([key])
    await ledger.spend(key, 1, 1)
    ledger.landed(key, "secrets", 7)
    store.armed = True
    await ledger.settle()
    assert (await ledger.all())["fa"].own["secrets"].count == 1


def test_a_window_never_begins_above_its_ceiling() -> None:
    assert Window(WindowSize(ceiling=1)).limit == 1


@pytest.mark.parametrize("stray", [b"/registry/secrets/", b"/registry/secrets/default/"])
async def test_a_stray_first_key_hides_no_resource_from_a_wildcard(stray: bytes) -> None:
    store = MemoryStore()
    store.put(stray, b"x")
    store.put(b"/registry/secrets/default/a", b"x")
    everything = EncryptionConfiguration((ResourceEntry(("*.*",), (IdentityProvider(),)),))
    territory = await survey(store, everything, Layout())
    assert [one.resource for one in territory.governed] == ["secrets"]


async def test_a_reason_of_a_newer_version_is_a_record_error() -> None:
    store = MemoryStore()
    newer = {"key": "/k", "reason": "newer", "detail": "", "mod_revision": 1}
    store.put(SPACE.quarantined("c", b"/k"), encode(newer))
    with capture_logs() as logs:
        assert [one async for one in QuarantineRecords(store, SPACE, "c").all()] == []
    assert [one["event"] for one in logs] == ["record.unreadable"]


def test_deep_nesting_is_a_record_error() -> None:
    with pytest.raises(RecordError, match="/k"):
        decode(b"/k", b"[" * 200_000)
