"""The claims on batches: locks on leases, as processes other than their holders read them."""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.pages import read_keys
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Store
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
        keys, found = self._keyspace.claims(campaign), set[int]()
        async for look in read_keys(self._store, keys):
            found.update(number for number in (_number(key, keys) for key in look) if number is not None)
        return frozenset(found)

    async def all(self, campaign: str) -> list[Claim]:
        """Return the claims on a campaign's batches, in the order of their numbers."""
        keys = self._keyspace.claims(campaign)
        found = []
        async for item in read_items(self._store, keys):
            number = _number(item.key, keys)
            if number is not None:
                found.append(Claim(number, holder_in(item)))
        return found


def _number(key: bytes, claims: KeyRange) -> int | None:
    """Return the number of the batch that a key of this range claims; None if no process of ours wrote the key."""
    number = key[len(claims.start) :]
    return int(number) if len(number) == _DIGITS and number.isdigit() else None
