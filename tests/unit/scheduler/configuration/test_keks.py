"""KEKs that the plugins name, on record in etcd: what becomes a generation, and what is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.scheduler.configuration import keks as module
from kube_rewrap.scheduler.configuration.keks import KekWatch
from kube_rewrap.worker.errors import FencedError, KmsUnavailableError, WorkerError
from kube_rewrap.worker.etcd.store import Delete, Expect, Put
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.kek import Kek, KekFigures
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.store import MemoryStore

A, B = hash_of_key_id("a"), hash_of_key_id("b")
DOWN = KmsUnavailableError("it does not answer")


def file_of(*names: str, comment: str = "") -> Generation:
    providers = "".join(
        f"  - kms: {{apiVersion: v2, name: {name}, endpoint: 'unix:///run/{name}.sock'}}\n" for name in names
    )
    head = f"# {comment}\napiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
    text = f"{head}- resources: [secrets]\n  providers:\n{providers}  - identity: {{}}\n"
    return load_generation(text.encode(), "test")


class Cluster:
    """A watch over KEKs whose plugins answer what a test says. Each file is handed over when the test puts it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settle: float = 0.0) -> None:
        monkeypatch.setattr(module, "_ASK_SECONDS", 0.01)
        monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
        self.store = MemoryStore()
        keyspace = Keyspace()
        self.keks = Keks(self.store, keyspace)
        self.shown: Mapping[str, KekFigures] = {}
        self.waits = False
        self.watch = KekWatch(self.keks, AuditLog(self.store, keyspace, "test"), self.ask, settle, self.show)
        self.named: dict[str, str | WorkerError] = {}
        self.asked = 0
        self.files: asyncio.Queue[Generation] = asyncio.Queue()

    async def ask(self, generation: Generation) -> Mapping[str, str | WorkerError]:
        self.asked += 1
        return {writer.name: self.named[writer.name] for writer in generation.kms_writers}

    def show(self, keks: Mapping[str, KekFigures], waits: bool) -> None:
        self.shown, self.waits = keks, waits

    async def _files(self) -> AsyncGenerator[Generation]:
        while True:
            yield await self.files.get()

    def generations(self) -> AsyncGenerator[Generation]:
        return self.watch.generations(self._files())

    async def held(self, part: str) -> None:
        """Waits until the watch holds for this reason; it goes on asking meanwhile."""
        async with asyncio.timeout(10):
            while part not in self.watch.held if part else self.watch.held:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)

    async def shows(self, wanted: Callable[[], bool]) -> None:
        """Waits until the watch shows this; it goes on asking meanwhile."""
        async with asyncio.timeout(10):
            while not wanted():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def test_a_file_without_kms_is_passed_on_and_asks_no_plugin(cluster: Cluster) -> None:
    await cluster.files.put(file_of())
    async with aclosing(cluster.generations()) as generations:
        first = await anext(generations)
        assert first == file_of()
        assert first.hash == first.file_hash


async def test_another_kek_is_another_generation_of_the_same_file(cluster: Cluster) -> None:
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": A}
    async with aclosing(cluster.generations()) as generations:
        first = await anext(generations)
        assert first.targets == {"cloud": A}
        cluster.named = {"cloud": B}
        with capture_logs() as logs:
            second = await asyncio.wait_for(anext(generations), 10)
        assert second.targets == {"cloud": B}
        assert second.file_hash == first.file_hash
        assert second.hash not in {first.hash, first.file_hash}
        assert "kek.changed" in [line["event"] for line in logs]
    [stored] = await cluster.keks.all()
    assert (stored.value.target, stored.value.former) == (B, (A,))


async def test_a_new_file_whose_plugin_is_silent_is_shown_not_to_be_in_force(cluster: Cluster) -> None:
    await cluster.files.put(file_of())
    async with aclosing(cluster.generations()) as generations:
        assert await anext(generations) == file_of()
        assert not cluster.waits
        cluster.named = {"cloud": DOWN}
        await cluster.files.put(file_of("cloud"))
        following = asyncio.ensure_future(anext(generations))
        await cluster.shows(lambda: cluster.waits)
        assert cluster.shown == {"cloud": KekFigures(is_held=True)}
        cluster.named = {"cloud": A}
        assert (await asyncio.wait_for(following, 10)).targets == {"cloud": A}
        assert not cluster.waits
        # An outage later on leaves the file in force.
        cluster.named = {"cloud": DOWN}
        following = asyncio.ensure_future(anext(generations))
        await cluster.held("gives no key id")
        await cluster.shows(lambda: cluster.shown["cloud"].is_held)
        assert not cluster.waits
        following.cancel()
        await asyncio.wait({following})


async def test_case_22_a_former_kek_is_held_and_the_present_one_stays(cluster: Cluster) -> None:
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": A}
    async with aclosing(cluster.generations()) as generations:
        await anext(generations)
        cluster.named = {"cloud": B}
        await asyncio.wait_for(anext(generations), 10)
        cluster.named = {"cloud": A}
        following = asyncio.ensure_future(anext(generations))
        await cluster.held("a key id must never come back")
        assert not following.done()
        cluster.named = {"cloud": B}
        await cluster.held("")
        await cluster.files.put(file_of("cloud", comment="new"))
        assert (await asyncio.wait_for(following, 10)).targets == {"cloud": B}


async def test_a_kek_that_has_not_stood_long_enough_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, settle=300.0)
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": A}
    async with aclosing(cluster.generations()) as generations:
        await anext(generations)
        cluster.named = {"cloud": B}
        following = asyncio.ensure_future(anext(generations))
        await cluster.held("takes effect after the plugin has named it for 300 s")
        assert not following.done()
        following.cancel()
        await asyncio.wait({following})


async def test_a_plugin_that_never_named_a_kek_is_waited_for(cluster: Cluster) -> None:
    """That of the provider that writes; no other one is asked."""
    await cluster.files.put(file_of("cloud", "reads-only"))
    cluster.named = {"cloud": DOWN}
    async with aclosing(cluster.generations()) as generations:
        following = asyncio.ensure_future(anext(generations))
        await cluster.held("'cloud' gives no key id: it does not answer")
        assert not following.done()
        cluster.named = {"cloud": A}
        assert (await asyncio.wait_for(following, 10)).targets == {"cloud": A}


async def test_what_is_shown_of_each_provider_and_for_how_long(cluster: Cluster) -> None:
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": DOWN}
    async with aclosing(cluster.generations()) as generations:
        following = asyncio.ensure_future(anext(generations))
        await cluster.shows(lambda: cluster.shown == {"cloud": KekFigures(is_held=True)})
        cluster.named = {"cloud": A}
        await asyncio.wait_for(following, 10)
        named = cluster.shown["cloud"]
        [stored] = await cluster.keks.all()
        assert (named.since, named.is_held) == (stored.value.since, False)
        assert 0 < named.named_at <= time.time()
        cluster.named = {"cloud": DOWN}
        following = asyncio.ensure_future(anext(generations))
        await cluster.shows(lambda: cluster.shown["cloud"].is_held)
        held = cluster.shown["cloud"]
        assert held.since == named.since
        asked = cluster.asked
        await cluster.shows(lambda: cluster.asked >= asked + 3)
        assert cluster.shown["cloud"] == held, "the time of the last answer stands"
        await cluster.files.put(file_of())
        await asyncio.wait_for(following, 10)
        assert cluster.shown == {}


async def test_a_plugin_that_is_down_keeps_the_kek_on_record(cluster: Cluster) -> None:
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": A}
    async with aclosing(cluster.generations()) as generations:
        await anext(generations)
        cluster.named = {"cloud": DOWN}
        following = asyncio.ensure_future(anext(generations))
        await cluster.held("gives no key id")
        await cluster.files.put(file_of("cloud", comment="new"))
        assert (await asyncio.wait_for(following, 10)).targets == {"cloud": A}


async def test_a_damaged_record_is_held_with_its_key_and_ends_no_process(cluster: Cluster) -> None:
    key = Keyspace().kek("cloud")
    cluster.store.put(key, b"{")
    cluster.named["cloud"] = A
    cluster.files.put_nowait(file_of("cloud"))
    async with aclosing(cluster.generations()) as generations:
        first = asyncio.ensure_future(anext(generations))
        await cluster.held(key.decode())
        assert not first.done()
        cluster.store.delete(key)
        async with asyncio.timeout(10):
            assert (await first).targets == {"cloud": A}
        assert cluster.watch.held == ""


class RacedKeks(Keks):
    """Another process writes a record between the first read of it and the write that follows."""

    other: Kek | None = None

    async def save(self, stored: Stored[Kek], *along: Put | Delete) -> Stored[Kek]:
        if self.other is not None:
            other, self.other = self.other, None
            await Keks(self._store, self._keyspace).save(Stored(other, stored.revision))
        return await super().save(stored, *along)


@pytest.mark.parametrize("is_first", [True, False], ids=["a first KEK", "another KEK"])
async def test_a_record_that_a_run_wrote_at_the_same_time_is_read_again(
    monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    cluster = Cluster(monkeypatch)
    raced = RacedKeks(cluster.store, Keyspace())
    cluster.watch = KekWatch(raced, AuditLog(cluster.store, Keyspace(), "test"), cluster.ask, 0.0, cluster.show)
    if not is_first:
        await raced.save(Stored(Kek(provider="cloud", target=A, since=1.0)))
    raced.other = Kek(provider="cloud", target=B, since=2.0, former=() if is_first else (A,))
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": B}
    async with aclosing(cluster.generations()) as generations:
        assert (await asyncio.wait_for(anext(generations), 10)).targets == {"cloud": B}
    [stored] = await raced.all()
    assert (stored.value.target, stored.value.since) == (B, 2.0)


async def test_a_lost_lock_still_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    fenced = Keks(cluster.store, Keyspace(), [Expect(b"/kube-rewrap/leader", 7)])
    cluster.watch = KekWatch(fenced, AuditLog(cluster.store, Keyspace(), "test"), cluster.ask, 0.0, cluster.show)
    await cluster.files.put(file_of("cloud"))
    cluster.named = {"cloud": A}
    async with aclosing(cluster.generations()) as generations:
        with pytest.raises(FencedError, match="the lock was lost"):
            await asyncio.wait_for(anext(generations), 10)
