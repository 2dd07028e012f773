"""The claims on batches: locks on leases, as processes other than their holders read them."""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.holder import Holder
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import holder_in

_DIGITS = 8  # of a batch's number


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim on one batch, and the worker that holds it; None if the claim's record is unreadable."""

    number: int
    holder: Holder | None


class Claims:
    """Reads the claims of one state prefix; workers take them by `ownership.Session`."""

    def __init__(self, store: Store, keyspace: Keyspace) -> None:
        self._store = store
        self._keyspace = keyspace

    async def held(self, campaign: str) -> frozenset[int]:
        """Return the numbers of the batches that a worker holds."""
        return frozenset([claim.number for claim in await self.all(campaign)])

    async def all(self, campaign: str) -> list[Claim]:
        """Return the claims on a campaign's batches, in the order of their numbers."""
        keys = self._keyspace.claims(campaign)
        found = []
        async for item in record.read_items(self._store, keys):
            number = item.key[len(keys.start) :]
            if len(number) == _DIGITS and number.isdigit():
                found.append(Claim(int(number), holder_in(item)))
        return found
