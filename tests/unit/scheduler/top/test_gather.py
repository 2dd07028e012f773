"""What `rewrap top` reads: records only, few of them, and what can't be read is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.top.gather import EVENTS, Gatherer
from kube_rewrap.worker.errors import TemporaryError, UnavailableError
from kube_rewrap.worker.etcd.store import Delete, Expect, Put
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.generation import History
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.holder import Holder
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.top.cluster import BUSY, COMPLETE, IN_FORCE, PROVING, RUNNING

SPACE = Keyspace()
READS = ("get", "page", "keys", "stamps", "count", "revision", "members", "alarms", "log_position")


class CountingStore(MemoryStore):
    """Counts its reads, and refuses writes once it is `read_only`."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.read_only = False

    def __getattribute__(self, name: str) -> Any:
        if name in READS:
            self.reads += 1
        return super().__getattribute__(name)

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> Any:
        assert not self.read_only
        return await super().commit(expects, changes)


def noted(store: MemoryStore, start: bytes, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes from now on the revision `since` of each page that is read below a prefix."""
    asked: list[int] = []
    page = store.page

    async def noting(*arguments: Any, since: int = 0, **options: Any) -> Any:
        if arguments[0].start.startswith(start):
            asked.append(since)
        return await page(*arguments, since=since, **options)

    monkeypatch.setattr(store, "page", noting)
    return asked


async def filled(store: MemoryStore) -> None:
    campaigns = Campaigns(store, SPACE)
    await campaigns.create(RUNNING.campaign, RUNNING.batches)
    await campaigns.create(COMPLETE.campaign, ())
    await Generations(store, SPACE).save(Stored(History(IN_FORCE)))
    assert BUSY.rotation is not None
    await Rotations(store, SPACE).save(Stored(BUSY.rotation))
    log = AuditLog(store, SPACE, "rewrap scheduler")
    for number in range(EVENTS + 5):
        await log.append("campaign.planned", f"c{number}", because="a change")


async def test_a_look_shows_what_is_on_record() -> None:
    store = CountingStore()
    await filled(store)
    store.read_only = True
    found = await Gatherer(store, Settings()).look()
    assert [(row.id, row.done, row.planned) for row in found.campaigns] == [
        (RUNNING.campaign.id, 5_400, 9_000),
        (COMPLETE.campaign.id, None, None),
    ]
    assert found.rotation is not None
    assert found.rotation.step == "rewrap"
    assert [row.campaign for row in found.events] == [f"c{number}" for number in range(EVENTS + 4, 4, -1)]
    assert found.gaps == ()


async def test_the_parts_of_a_proof_and_the_keks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore()
    proving = PROVING.campaigns[1]
    await Campaigns(store, SPACE).create(proving.campaign, proving.batches)
    await Proofs(store, SPACE).replace_all(proving.campaign.id, proving.parts)
    for kek in PROVING.keys.keks:
        await Keks(store, SPACE).save(Stored(kek))
    gatherer = Gatherer(store, Settings())
    found = await gatherer.look()
    [row] = found.campaigns
    assert (row.parts_done, row.parts, row.proven) == (1, 3, 12_500)
    assert sorted(one.provider for one in found.keks) == ["cloud", "former-cloud"]
    asked = noted(store, SPACE.proofs(proving.campaign.id).start, monkeypatch)
    [row] = (await gatherer.look()).campaigns
    assert row.parts_done == 1
    assert asked
    assert all(asked)  # those that changed, alone


async def test_the_reads_of_a_look_do_not_grow_with_the_registry_or_the_log() -> None:
    store = CountingStore()
    await filled(store)
    gatherer = Gatherer(store, Settings())
    await gatherer.look()
    store.reads = 0
    await gatherer.look()
    few = store.reads
    for number in range(2_000):
        store.put(b"/registry/secrets/default/%d" % number, b"x")
    log = AuditLog(store, SPACE, "rewrap scheduler")
    for _ in range(200):
        await log.append("campaign.planned", "c", because="a change")
    store.reads = 0
    await gatherer.look()
    assert store.reads == few < 20


async def test_a_second_look_decodes_only_the_batches_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore()
    await filled(store)
    gatherer = Gatherer(store, Settings())
    await gatherer.look()
    asked = noted(store, SPACE.batches(RUNNING.campaign.id).start, monkeypatch)
    await gatherer.look()
    assert asked
    assert all(asked)


@pytest.mark.parametrize(
    ("key", "gap"),
    [
        ("campaigns/x", "the campaign x: "),
        ("requests/x", "the request x: "),
        ("generation", "the configuration in force: "),
        ("audit-head", "the audit log: "),
        ("audit/000000000055", "the audit log: "),
        ("observer", "write budgets: "),
    ],
)
async def test_what_can_t_be_read_is_said_and_the_rest_is_shown(key: str, gap: str) -> None:
    store = MemoryStore()
    await filled(store)
    store.put(f"/kube-rewrap/v1/{key}".encode(), b"{}\x1b[2J")
    found = await Gatherer(store, Settings()).look()
    [sentence] = found.gaps
    assert sentence.startswith(gap)
    assert found.campaigns[0].id == RUNNING.campaign.id


async def test_locks_name_their_holders() -> None:
    store = MemoryStore()
    store.put(SPACE.leader, encode(Holder("rewrap scheduler", "a", 1, "now").to_json()))
    store.put(SPACE.owner, b"damaged")
    found = await Gatherer(store, Settings()).look()
    assert found.leader == "rewrap scheduler on a, pid 1, since now"
    assert found.owner == "a process whose record can't be read"


async def test_etcd_that_does_not_answer_is_an_error_of_the_look_and_the_next_one_goes_on() -> None:
    store = MemoryStore()
    gatherer = Gatherer(store, Settings())
    revision = store.revision

    async def away() -> int:
        raise UnavailableError("no etcd endpoint answered")

    store.revision = away  # type: ignore[method-assign]
    with pytest.raises(TemporaryError, match="no etcd endpoint answered"):
        await gatherer.look()
    store.revision = revision  # type: ignore[method-assign]
    assert (await gatherer.look()).etcd.answering == 1


async def test_without_a_recorded_configuration_nothing_is_said_of_kube_apiservers() -> None:
    gatherer = Gatherer(MemoryStore(), Settings())
    await gatherer.probe()
    found = (await gatherer.look()).apiservers
    assert found.converged is None
    assert found.because.startswith("not known: no scheduler has recorded the configuration in force")


async def test_with_a_recorded_configuration_the_kube_apiservers_are_judged_by_its_file() -> None:
    store = MemoryStore()
    await filled(store)
    gatherer = Gatherer(store, Settings())
    await gatherer.probe()
    found = (await gatherer.look()).apiservers
    assert found.converged is None  # no address: the probe asked none
    assert found.because.startswith("not known: no address of a kube-apiserver is given")
