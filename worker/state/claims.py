"""Who works on which batch: claims on leases, as others see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.etcd.store import Store
from worker.state import record
from worker.state.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Claim:
    """One batch at work, and whose it is."""

    number: int
    holder: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Handback:
    """A worker that gave work back, for it holds another configuration."""

    host: str
    pid: str
    generation: str

    def __str__(self) -> str:
        return f"the worker {self.host}:{self.pid} holds the configuration {self.generation}"


class Claims:
    """The claims of one state prefix, read only; `ownership.Session` takes them."""

    def __init__(self, store: Store, keyspace: Keyspace) -> None:
        self._store = store
        self._keyspace = keyspace

    async def held(self, campaign: str) -> frozenset[int]:
        """Return the numbers of the batches at which somebody works."""
        return frozenset([claim.number for claim in await self.all(campaign)])

    async def all(self, campaign: str) -> list[Claim]:
        """Return the claims on a campaign's batches, in their order."""
        keys = self._keyspace.claims(campaign)
        return [
            Claim(int(item.key[len(keys.start) :]), fields) async for item, fields in record.read_all(self._store, keys)
        ]

    async def handbacks(self) -> list[Handback]:
        """Return the workers that gave work back a moment ago."""
        return [
            Handback(str(fields.get("host")), str(fields.get("pid")), str(fields.get("generation")))
            async for _, fields in record.read_all(self._store, self._keyspace.handbacks)
        ]
