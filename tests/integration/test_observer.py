"""On real etcd: `observed` is exactly what a scripted foreign writer wrote, whatever happens to the observers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import BudgetSettings, EtcdSettings, Settings
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.engine import Engine, open_engine
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import EVERYTHING
from kube_rewrap.worker.etcd.store import Expect, Put
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.observations import ObserverRecords
from tests.integration.apiserver import IDENTITY, Key, configuration, manifest
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(90)

NEW, OLD, BOX = Key.new("aesgcm", "new"), Key.new("aesgcm", "old"), Key.new("secretbox", "box")
KEYS = (NEW, OLD, BOX, IDENTITY)
DEFAULTS = Settings()


@dataclass
class Writer:
    """A foreign writer that keeps its own books: PUTs by fingerprint."""

    gateway: Gateway
    dice: random.Random
    written: Counter[str] = field(default_factory=Counter)

    def write(self, key: Key, name: str = "/registry/secrets/default/a") -> int:
        """One PUT; returns its revision."""
        self.written[key.fingerprint] += 1
        return self.gateway.put(name, key.seal(name, manifest("Secret", "default", "a", "x")))

    def script(self, writes: int) -> None:
        """Overwrites and deletes in both ranges, and some noise beside them, as the seed has it."""
        for _ in range(writes):
            name = f"/registry/{self.dice.choice(['secrets', 'configmaps'])}/default/o{self.dice.randrange(20)}"
            match self.dice.random():
                case chance if chance < 0.15:
                    self.gateway.delete(name)
                case chance if chance < 0.25:
                    self.gateway.put("/registry/pods/default/p", b"noise")
                case _:
                    self.write(self.dice.choice(KEYS), name)


@dataclass
class Office:
    """Where observers work one after another, each with the leader's lock."""

    engine: Engine
    cluster: Cluster
    guard: Expect
    drifted: set[tuple[str, str]] = field(default_factory=set)
    gaps: int = 0

    def _drift(self, resource: str, namespace: str) -> None:
        self.drifted.add((resource, namespace))

    def _gap(self) -> None:
        self.gaps += 1

    def start(self) -> tuple[Observer, asyncio.Task[None]]:
        observer = Observer(self.cluster, self.guard, Listeners(self._drift, self._gap))
        return observer, asyncio.create_task(observer.run(), name="observer")

    async def counts(self) -> dict[str, int]:
        return dict((await ObserverRecords(self.engine.store, self.engine.keyspace).load()).value.counts)


def generation() -> Generation:
    return load_generation(configuration((("secrets", "configmaps"), KEYS)).encode(), "test")


@asynccontextmanager
async def office(endpoint: str, base: Settings = DEFAULTS) -> AsyncIterator[Office]:
    settings = replace(base, etcd=EtcdSettings(endpoints=(endpoint,), call_timeout=5.0, give_up_after=20.0))
    async with open_engine(settings, generation()) as engine:
        leader = engine.keyspace.leader
        elected = await engine.store.commit([], [Put(leader, b"test")])
        cluster = Cluster(settings, Layout(), engine)
        yield Office(engine, cluster, Expect(leader, elected.revision, created=True))


@pytest.fixture
def writer(etcd: EtcdCluster) -> Writer:
    return Writer(etcd.admin(), random.Random(7))


async def until(condition: Callable[[], bool]) -> None:
    """The test's time-out is the bound."""
    while not condition():  # noqa: ASYNC110 - what an observer has seen has no event
        await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def begun(there: Office, writer: Writer) -> None:
    """The ranges are on record: from here on everything is seen, by whichever observer."""
    writer.gateway.put("/registry/namespaces/default", b"x")
    _, task = there.start()
    while not (await ObserverRecords(there.engine.store, there.engine.keyspace).load()).revision:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await ended(task)


async def settled(there: Office, writer: Writer) -> dict[str, int]:
    """What is counted when an observer has seen one more write in each range: what lies before was seen then, too."""
    names = [f"/registry/{resource}/default/last" for resource in ("secrets", "configmaps")]
    last = {name: await asyncio.to_thread(writer.write, NEW, name) for name in names}
    spans = there.cluster.spans.all
    goals = [next(at for name, at in last.items() if name.encode() in span.range) for span in spans]
    while True:
        observer, task = there.start()
        await until(lambda: task.done() or bool(observer.places))  # noqa: B023 - awaited before the next turn
        await until(lambda: task.done() or all(at > goal for at, goal in zip(observer.places, goals, strict=True)))  # noqa: B023
        counts, is_fenced = observer.counts, task.done()
        await ended(task)
        if not is_fenced:  # by the last write of one that died, which came late
            return counts


async def test_observed_is_what_was_written_across_restarts(etcd_any: EtcdCluster) -> None:
    writer = Writer(etcd_any.admin(), random.Random(7))
    async with office(etcd_any.endpoints[0]) as there:
        await begun(there, writer)
        for _ in range(8):
            _, task = there.start()
            await asyncio.to_thread(writer.script, writer.dice.randrange(5, 40))
            await ended(task)
            await asyncio.to_thread(writer.script, writer.dice.randrange(5))
        assert await settled(there, writer) == dict(writer.written)
    assert there.gaps == 0


async def test_observed_is_what_was_written_when_observers_die_without_a_last_word(
    etcd: EtcdCluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_last_word(_: Observer) -> None:
        """As after SIGKILL."""

    async with office(etcd.endpoints[0]) as there:
        await begun(there, writer)
        with monkeypatch.context() as patch:
            patch.setattr(Observer, "_close", no_last_word)
            patch.setattr(
                "kube_rewrap.scheduler.keys.observer._FLUSH_SECONDS", 0.02
            )  # so that deaths fall before, in and after flushes
            for _ in range(12):
                observer, task = there.start()
                goal = writer.written.total()
                await asyncio.to_thread(writer.script, writer.dice.randrange(5, 30))
                # It may be fenced by the last write of the one before, which came late: the next one goes on.
                await until(lambda: task.done() or sum(observer.counts.values()) >= goal)  # noqa: B023
                await ended(task)
        assert await settled(there, writer) == dict(writer.written)


async def test_observed_is_what_was_written_over_a_connection_that_keeps_breaking(
    etcd: EtcdCluster, writer: Writer
) -> None:
    with Proxy(etcd.endpoints[0]) as proxy:
        async with office(proxy.endpoint) as there:
            await begun(there, writer)
            observer, task = there.start()
            for _ in range(6):
                await asyncio.to_thread(writer.script, 20)
                proxy.cut()
            await until(lambda: task.done() or sum(observer.counts.values()) >= writer.written.total())
            await ended(task)  # a flush whose answer was cut off may have ended it: the next one goes on
            assert await settled(there, writer) == dict(writer.written)
    assert there.gaps == 0


async def test_drift_is_told_and_writes_under_the_primary_are_not(etcd: EtcdCluster, writer: Writer) -> None:
    async with office(etcd.endpoints[0]) as there:
        await begun(there, writer)
        _, task = there.start()
        with capture_logs() as logs:
            writer.write(NEW, "/registry/secrets/team-a/x")
            writer.write(OLD, "/registry/secrets/team-b/x")
            writer.write(BOX, "/registry/configmaps/team-c/x")
            await until(lambda: len(there.drifted) == 2)
        await ended(task)
    assert there.drifted == {("secrets", "team-b"), ("configmaps", "team-c")}
    assert {log["key"] for log in logs if log["event"] == "drift.found"} == {
        "/registry/secrets/team-b/x",
        "/registry/configmaps/team-c/x",
    }


async def test_after_a_gap_observed_is_never_less_than_what_was_written(etcd: EtcdCluster, writer: Writer) -> None:
    async with office(etcd.endpoints[0]) as there:
        await begun(there, writer)
        for _ in range(30):
            writer.write(NEW)
        writer.gateway.compact(writer.gateway.revision())
        for _ in range(3):
            writer.write(NEW)
        observer, task = there.start()
        await until(lambda: there.gaps == 1 and observer.counts.get(NEW.fingerprint, 0) > 30)
        last = observer.counts[NEW.fingerprint]
        writer.write(NEW)
        await until(lambda: observer.counts[NEW.fingerprint] > last)
        counts = observer.counts
        await ended(task)
    assert counts[NEW.fingerprint] >= writer.written[NEW.fingerprint]
    assert counts[OLD.fingerprint] > 0  # it might have been any of the keys that wear out
    assert BOX.fingerprint not in counts


async def test_the_record_holds_no_key_and_no_plaintext(etcd: EtcdCluster, writer: Writer) -> None:
    async with office(etcd.endpoints[0]) as there:
        await begun(there, writer)
        writer.write(OLD)
        await settled(there, writer)
    stored = writer.gateway.get("/kube-rewrap/v1/observer")
    assert stored is not None
    for secret in (NEW.material.hex(), OLD.material.hex(), "payload"):
        assert secret.encode() not in stored.value


BLOCK = 20


async def recorded(there: Office, writer: Writer) -> None:
    """An observer sees one more write in each range, and puts that on record."""
    last = {
        resource: await asyncio.to_thread(writer.write, NEW, f"/registry/{resource}/default/last")
        for resource in ("secrets", "configmaps")
    }

    def is_on_record() -> bool:
        return all(observer.recorded.value.position(name, NEW.fingerprint) > at for name, at in last.items())

    is_fenced = True
    while is_fenced:
        observer, task = there.start()
        await until(lambda: task.done() or is_on_record())  # noqa: B023 - awaited before the next turn
        is_fenced = not is_on_record()
        await ended(task)


async def lived(cluster: EtcdCluster, monkeypatch: pytest.MonkeyPatch, seed: int, steps: int) -> tuple[int, int]:
    """A life of the key NEW by the dice: others write, observers come and go, we rewrap, etcd compacts.

    Returns how often it encrypted, by the writer's and the swaps' own books, and what its budget says of that.
    """
    monkeypatch.setattr("kube_rewrap.scheduler.keys.observer._FLUSH_SECONDS", 0.05)
    dice = random.Random(seed)
    writer = Writer(cluster.admin(), dice)
    sealed = 0
    async with office(cluster.endpoints[0], replace(DEFAULTS, budget=BudgetSettings(block=BLOCK))) as there:
        await begun(there, writer)
        _, task = there.start()
        for _ in range(steps):
            match dice.choice(["write", "write", "rewrap", "rewrap", "observer", "compact"]):
                case "write":
                    await asyncio.to_thread(writer.script, dice.randrange(20, 60))
                case "rewrap":
                    sealed += await rewrapped(there)
                case "compact":
                    # One observer ends and the next begins: of longer gaps only the bound from below holds.
                    await ended(task)
                    await recorded(there, writer)
                    writer.gateway.compact(writer.gateway.revision())
                    _, task = there.start()
                case _ if task.done():
                    _, task = there.start()
                case _:
                    await ended(task)
        await ended(task)
        await recorded(there, writer)
        budget = (await there.engine.ledger.all())[NEW.fingerprint]
    return writer.written[NEW.fingerprint] + sealed, budget.used


async def rewrapped(there: Office) -> int:
    """One campaign of our own; returns how often it sealed."""
    brake = Brake()
    async with hold_lock(there.cluster, brake) as lock:
        plan = await plan_run(there.cluster, EVERYTHING)
        result = await run_embedded(there.cluster, plan, lock, brake, lambda _report, _batches: None)
    return result.report.encryptions


async def test_used_is_the_truth_and_little_more_whoever_observes_when(
    etcd_any: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, used = await lived(etcd_any, monkeypatch, seed=3, steps=16)
    assert truth <= used <= 1.05 * truth + BLOCK


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(20))
async def test_used_is_the_truth_and_little_more_through_many_lives(
    etcd_any: EtcdCluster, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    truth, used = await lived(etcd_any, monkeypatch, seed, steps=40)
    assert truth <= used <= 1.05 * truth + BLOCK
