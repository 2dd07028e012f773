"""A watch outlives its token: etcd forgot it, the stream breaks, and every write is still delivered once, in order.

etcd looks at a token when a watch begins, and not again. Here nothing is broken before etcd has said that the token is
gone, so that every new stream begins with one that is refused. etcd 3.4 and 3.5 refuse it in different words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Store, WatchFrom
from tests.servers.etcd import REWRAP, EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(180)

PREFIXES = ("/registry/secrets/", "/registry/configmaps/")
_SECONDS = 40.0

# Key, value and revision.
Written = tuple[str, bytes, int]


@pytest.fixture(params=EtcdVersion, ids=lambda version: f"etcd-{version.value}")
def cluster(request: pytest.FixtureRequest, new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> EtcdCluster:
    """etcd with tokens that live for two seconds when nobody uses them; it logs when it forgets one."""
    quick = ("--auth-token-ttl", "2", "--log-level", "debug")
    return new_etcd(EtcdOptions(version=request.param, auth=True, extra_args=quick))


class Tokens:
    """Tells when etcd has forgotten the token that is in use."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self._forgotten: set[str] = set()

    async def forgotten(self) -> None:
        """Waits for one that was not forgotten before. The store under test is the only one with this user."""
        await until(lambda: self._said() > self._forgotten, "a token was forgotten")
        self._forgotten |= self._said()

    def _said(self) -> set[str]:
        """All lines of etcd's log about tokens of ours, so far; each names its token."""
        lines = self._cluster.members[0].log().splitlines()
        mine = f'"user-name":"{REWRAP.name}"'
        return self._forgotten | {line for line in lines if '"deleted a simple token"' in line and mine in line}


class Writer:
    """A foreign writer that keeps its own books."""

    def __init__(self, gateway: Gateway) -> None:
        self.written: list[Written] = []
        self._gateway = gateway

    async def write(self, times: int) -> None:
        """Overwrites one object in each range, in turn."""
        for _ in range(times):
            number = len(self.written)
            key = f"{PREFIXES[number % 2]}default/a"
            value = b"%d" % number
            self.written.append((key, value, await asyncio.to_thread(self._gateway.put, key, value)))


class Reader:
    """What a watch delivers, from now on."""

    def __init__(self, store: Store) -> None:
        self.gaps: list[int] = []
        self.seen: list[Written] = []
        self._store = store

    async def run(self, since: int) -> None:
        starts = [WatchFrom(KeyRange.of_prefix(prefix.encode()), since) for prefix in PREFIXES]
        async with aclosing(self._store.watch(starts)) as stream:
            async for watched in stream:
                self.gaps += [watched.compacted] if watched.compacted else []
                self.seen += [(item.key.decode(), item.value, item.mod_revision) for item in watched.puts]


@asynccontextmanager
async def reading(endpoint: str) -> AsyncIterator[tuple[Reader, asyncio.Task[None]]]:
    """A watch at work, until the block ends."""
    password = SecretBytes(REWRAP.password.encode())
    settings = EtcdSettings(endpoints=(endpoint,), call_timeout=5.0, give_up_after=20.0, connect_timeout=5.0)
    async with open_store(replace(settings, user=REWRAP.name, password=password), "/kube-rewrap") as store:
        reader = Reader(store)
        task = asyncio.create_task(reader.run(await store.revision() + 1), name="watch")
        try:
            yield reader, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object], what: str, task: asyncio.Task[None] | None = None) -> None:
    """Waits for a condition; the task's error comes first, if it ends meanwhile."""
    try:
        async with asyncio.timeout(_SECONDS):
            while not await asyncio.to_thread(holds):
                if task is not None and task.done():
                    task.result()
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what}: not in {_SECONDS:.0f} s") from None


async def assert_delivered(reader: Reader, writer: Writer, task: asyncio.Task[None]) -> None:
    """Each range has an order of its own; between the two there is none when a stream began anew."""
    await until(lambda: len(reader.seen) >= len(writer.written), f"{len(writer.written)} writes delivered", task)
    assert reader.gaps == []
    assert len(reader.seen) == len(writer.written)
    for prefix in PREFIXES:
        assert within(prefix, reader.seen) == within(prefix, writer.written)


def within(prefix: str, puts: list[Written]) -> list[Written]:
    return [put for put in puts if put[0].startswith(prefix)]


async def test_nothing_is_lost_when_the_stream_breaks_after_its_token_has_expired(cluster: EtcdCluster) -> None:
    tokens, writer = Tokens(cluster), Writer(cluster.admin())
    with Proxy(cluster.endpoints[0]) as proxy:
        async with reading(proxy.endpoint) as (reader, task):
            await writer.write(2)
            await assert_delivered(reader, writer, task)
            for _ in range(2):  # the second time it is the token that was got for the first
                await tokens.forgotten()
                await writer.write(2)
                await assert_delivered(reader, writer, task)  # the old stream is as good as ever
                proxy.refuse()
                await writer.write(4)
                proxy.pass_on()
                await writer.write(2)
                await assert_delivered(reader, writer, task)


async def test_a_second_token_may_expire_before_anything_was_written(cluster: EtcdCluster) -> None:
    """A quiet night: the second refusal has the words of the first, and is no missing permission either."""
    tokens, writer = Tokens(cluster), Writer(cluster.admin())
    with Proxy(cluster.endpoints[0]) as proxy:
        async with reading(proxy.endpoint) as (reader, task):
            for _ in range(2):
                await tokens.forgotten()
                proxy.cut()
            await writer.write(4)
            await assert_delivered(reader, writer, task)
