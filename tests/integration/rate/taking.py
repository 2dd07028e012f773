"""Taking turns from the shared ceiling, what is logged meanwhile, and a server that is no Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from structlog.testing import capture_logs
from structlog.typing import EventDict

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.rate.shared import SharedPace
from tests.contract.grants import Grant
from tests.servers.redis import RedisOptions, RedisServer

NewRedis = Callable[[RedisOptions], RedisServer]


def settings_of(server: RedisServer, timeout: float = 5.0) -> BrokerSettings:
    files = server.certificates
    return BrokerSettings(
        url=SecretBytes(server.url.encode()),
        cacert=str(files.cacert) if files else None,
        cert=str(files.cert) if files else None,
        key=str(files.key) if files else None,
        timeout=timeout,
    )


def now() -> float:
    return asyncio.get_running_loop().time()


async def take(pace: SharedPace, objects: int, calls: int) -> list[Grant]:
    grants = []
    for _ in range(calls):
        begun = now()
        await pace.take(objects)
        grants.append(Grant(begun, now(), objects))
    return grants


async def take_until(pace: SharedPace, objects: int, logs: list[EventDict], event: str) -> list[Grant]:
    """Until the event was logged."""
    grants = []
    async with asyncio.timeout(40):
        while event not in names(logs):
            grants += await take(pace, objects, 1)
    return grants


def names(logs: list[EventDict]) -> list[str]:
    return [entry["event"] for entry in logs]


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged meanwhile: Redis was there all the time."""
    with capture_logs() as logs:
        yield
    assert logs == []


@asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], answer_within: float = 0.5
) -> AsyncIterator[BrokerSettings]:
    """Something that is not Redis. `answer_within`: how long who asks it waits, in seconds."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = SecretBytes(f"redis://me:CanaryPassword@127.0.0.1:{port}".encode())
        yield BrokerSettings(url=url, timeout=answer_within)
