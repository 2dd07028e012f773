"""What the observer counts and reports, what it records, and how it resumes."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
    KmsProvider,
)
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import FencedError, KmsUnavailableError, RecordError
from kube_rewrap.worker.etcd.store import Put
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.plugins import MemoryPlugins, new_data_key
from tests.unit.scheduler.keys.scene import (
    BOX,
    FP_BOX,
    FP_NEW,
    FP_OLD,
    IMPOSTOR,
    LEADER,
    NEW,
    OBJECT,
    OLD,
    scene,
    until,
)

pytestmark = pytest.mark.timeout(20)


async def test_every_put_counts_for_the_key_that_opens_it_by_any_client() -> None:
    there = await scene()
    there.write("/registry/secrets/default/early", NEW)
    async with there.observed() as observer:
        for _ in range(3):
            there.write("/registry/secrets/default/a", NEW)
        there.write("/registry/secrets/default/b", BOX)
        there.write("/registry/minions/n1", NEW)
        there.write("/registry/configmaps/default/not-governed", NEW)
        there.store.delete(b"/registry/secrets/default/a")
        await until(lambda: observer.counts == {FP_NEW: 4, FP_BOX: 1})
        assert observer.lag == 0
    assert dict((await there.recorded()).counts) == {FP_NEW: 4, FP_BOX: 1}


async def test_what_opens_with_no_key_counts_for_each_key_whose_name_it_carries() -> None:
    there = await scene()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/a", IMPOSTOR)
            there.store.put(b"/registry/secrets/default/b", b"k8s:enc:aesgcm:v1:unheard-of:???")
            await until(lambda: observer.counts == {FP_NEW: 1})
            # Both were delivered: the second one counts for no key.
            there.write("/registry/secrets/default/c", BOX)
            await until(lambda: observer.counts == {FP_NEW: 1, FP_BOX: 1})
    (told,) = [log for log in logs if log["event"] == "observer.unreadable"]
    assert (told["key"], told["reason"]) == ("/registry/secrets/default/a", "authentication_failed")
    assert there.drifted == [("secrets", "default")]


async def test_while_values_are_tried_out_no_drift_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kube_rewrap.scheduler.campaigns.pausing.MOST_FRESH", 20)
    there = await scene()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/first/a", OLD)
            await until(lambda: there.drifted == [("secrets", "first")])
            for number in range(300):
                there.write(f"/registry/secrets/guess/{number}", IMPOSTOR)
            there.write("/registry/secrets/hit/a", OLD)
            await until(lambda: observer.counts == {FP_NEW: 300, FP_OLD: 2})
    assert there.drifted == [("secrets", "first")]
    assert [log["event"] for log in logs if log["event"].startswith("drift.")] == ["drift.found", "drift.muted"]


async def test_drift_is_reported_with_its_namespace_and_the_key_that_was_used() -> None:
    there = await scene()
    with capture_logs() as logs:
        async with there.observed():
            there.write("/registry/secrets/kube-system/a", OLD)
            there.write("/registry/secrets/kube-system/b", NEW)
            there.write("/registry/minions/n1", IdentityProvider())
            await until(lambda: len(there.drifted) == 2)
    assert sorted(there.drifted) == [("nodes", ""), ("secrets", "kube-system")]
    told = sorted((log for log in logs if log["event"] == "drift.found"), key=lambda log: log["resource"], reverse=True)
    assert [log["key"] for log in told] == ["/registry/secrets/kube-system/a", "/registry/minions/n1"]
    assert all(part in told[0]["because"] for part in ("old", FP_OLD))


async def test_the_next_observer_continues_after_the_last_count() -> None:
    there = await scene()
    async with there.observed() as first:
        there.write("/registry/secrets/default/a", NEW)
        await until(lambda: first.counts == {FP_NEW: 1})
    there.write("/registry/secrets/default/a", NEW)
    there.write("/registry/secrets/default/b", NEW)
    async with there.observed() as second:
        there.write("/registry/secrets/default/c", NEW)
        await until(lambda: second.counts == {FP_NEW: 4})
    assert dict((await there.recorded()).counts) == {FP_NEW: 4}


async def test_an_observer_that_lost_leadership_records_nothing_more_and_raises() -> None:
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    there.write("/registry/secrets/default/a", NEW)
    await until(lambda: observer.recorded.revision > 0)
    there.store.delete(LEADER)
    before = await there.recorded()
    there.write("/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task
    assert await there.recorded() == before


async def test_an_observer_stops_when_another_one_wrote_the_record() -> None:
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    await until(lambda: observer.recorded.revision > 0)
    theirs = observer.recorded.holding(Observations(counts={"x": 7}))
    await ObserverRecords(there.store, there.engine.keyspace).save(theirs)
    there.write("/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task
    assert dict((await there.recorded()).counts) == {"x": 7}


async def test_a_damaged_record_is_not_taken_for_none() -> None:
    there = await scene()
    await there.store.commit([], [Put(there.engine.keyspace.observer, b'{"v":1,"counts":{"x":"many"},"following":{}}')])
    with pytest.raises(RecordError, match="observer"):
        await there.observer().run()


@pytest.mark.parametrize(
    ("targets", "drifted"), [({"vault": hash_of_key_id("kek-1")}, ["other"]), ({}, [])], ids=["known", "unknown"]
)
async def test_values_of_kms_count_for_their_provider_and_drift_under_another_key_id(
    targets: dict[str, str], drifted: list[str]
) -> None:
    vault = KmsProvider("v2", "vault", "unix:///s", 3.0, None)
    there = await scene(vault, OLD)
    there.engine = Engine(there.store, Settings(), there.engine.generation, LocalPace(0), MemoryPlugins())
    there.engine.chains.aim(targets)
    there.cluster = Cluster(Settings(), Layout(), there.engine)
    async with there.observed() as observer:
        for namespace, key_id in (("same", "kek-1"), ("other", "kek-2")):
            name = f"/registry/secrets/{namespace}/a".encode()
            chain = Chain([vault], targets={"vault": hash_of_key_id(key_id)})
            assert chain.kms_primary is not None
            there.store.put(name, chain.seal(OBJECT, name, new_data_key(*chain.kms_primary)))
        there.write("/registry/secrets/local/a", OLD)
        await until(lambda: observer.counts == {"kms": 2, FP_OLD: 1})
    # For `removable`: which write was under another KEK than the one in force.
    stale = await there.store.get(b"/registry/secrets/other/a")
    assert stale is not None
    assert observer.last.get("kms-former") == (stale.mod_revision if targets else None)
    assert there.drifted == [("secrets", name) for name in (*drifted, "local")]


async def test_the_first_look_asks_no_plugin_so_that_an_outage_ends_no_observer() -> None:
    vault = KmsProvider("v2", "vault", "unix:///s", 3.0, None)
    there = await scene(OLD, vault)
    plugins = MemoryPlugins()
    plugins.failing = KmsUnavailableError("the plugin is down")
    there.engine = Engine(there.store, Settings(), there.engine.generation, LocalPace(0), plugins)
    there.cluster = Cluster(Settings(), Layout(), there.engine)
    name = b"/registry/secrets/default/a"
    chain = Chain([vault], targets={"vault": hash_of_key_id("kek-1")})
    assert chain.kms_primary is not None
    there.store.put(name, chain.seal(OBJECT, name, new_data_key(*chain.kms_primary)))
    async with there.observed() as observer:
        there.write("/registry/secrets/default/b", OLD)
        await until(lambda: observer.counts == {FP_OLD: 1})
    assert plugins.failing is not None


KMS = KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)


def under(key: str, key_id: str) -> bytes:
    chain = Chain([KMS], targets={KMS.name: hash_of_key_id(key_id)})
    assert chain.kms_primary
    return chain.seal(OBJECT, key.encode(), new_data_key(chain.kms_primary[0], key_id))


@pytest.mark.parametrize(
    ("written", "is_repaired"),
    [
        pytest.param("kek-1", True, id="a former KEK"),
        pytest.param("kek-3", False, id="one that the leader's plugin does not know yet"),
    ],
)
async def test_a_write_under_a_kek_that_was_never_in_force_is_not_rewritten_under_an_older_one(
    written: str, *, is_repaired: bool
) -> None:
    there = await scene(KMS, NEW)
    one, two = hash_of_key_id("kek-1"), hash_of_key_id("kek-2")
    engine = Engine(
        there.store, Settings(), there.engine.generation.aimed({KMS.name: two}), LocalPace(0), MemoryPlugins()
    )
    there.engine, there.cluster = engine, Cluster(Settings(), Layout(), engine)
    kek = Kek(provider=KMS.name, target=two, since=5.0, former=(one,))
    await Keks(there.store, engine.keyspace).save(Stored(kek))
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.store.put(b"/registry/secrets/default/a", under("/registry/secrets/default/a", written))
            there.store.put(b"/registry/secrets/default/b", under("/registry/secrets/default/b", "kek-2"))
            await until(lambda: sum(observer.opened.values()) == 2)
    assert there.drifted == [("secrets", "default")] * is_repaired
    told = [log["event"] for log in logs if log["event"].startswith("drift.")]
    assert told == ["drift.found" if is_repaired else "drift.unknown_kek"]


async def test_a_forged_kek_hides_no_drift_of_its_namespace() -> None:
    there = await scene(KMS, NEW)
    engine = Engine(
        there.store,
        Settings(),
        there.engine.generation.aimed({KMS.name: hash_of_key_id("kek-2")}),
        LocalPace(0),
        MemoryPlugins(),
    )
    there.engine, there.cluster = engine, Cluster(Settings(), Layout(), engine)
    kek = Kek(provider=KMS.name, target=hash_of_key_id("kek-2"), since=5.0)
    await Keks(there.store, engine.keyspace).save(Stored(kek))
    async with there.observed() as observer:
        there.store.put(b"/registry/secrets/default/a", under("/registry/secrets/default/a", "kek-3"))
        there.write("/registry/secrets/default/b", NEW)
        await until(lambda: sum(observer.opened.values()) == 2)
        assert there.drifted == [("secrets", "default")]
