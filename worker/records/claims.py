"""Who works on which batch: claims on leases, as others see them."""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.etcd.store import Item, Store
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import Holder, holder_in

_DIGITS = 8  # of a batch's number
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Claim:
    """One batch at work, and whose it is; None where that can't be read."""

    number: int
    holder: Holder | None


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
        found = []
        async for item in record.read_items(self._store, keys):
            number = item.key[len(keys.start) :]
            if len(number) == _DIGITS and number.isdigit():
                found.append(Claim(int(number), holder_in(item)))
        return found

    async def handbacks(self) -> list[Handback]:
        """Return the workers that gave work back a moment ago."""
        return [one async for one in record.read_each(self._store, self._keyspace.handbacks, _handback)]


def _handback(item: Item, given: dict[str, object]) -> Handback:
    fields = Fields.of(given)
    try:
        return Handback(fields.text("host", _LONGEST), str(fields.count("pid")), fields.text("generation", _LONGEST))
    except ValueError as error:
        raise damaged(item.key, error) from None
