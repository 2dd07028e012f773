"""An operator's word that all kube-apiservers run a configuration, on record: the last one only.

It speaks of one configuration by its hash, and of no other. What was said of an earlier one is
forgotten with the next word: who comes back to it has to look again.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.errors import RecordChangedError, TemporaryError
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Item, Store
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.keyspace import Keyspace

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Assumption:
    """The hash of the configuration's bytes, why the operator is sure, and when they said so (ISO 8601, UTC)."""

    generation: str
    reason: str
    at: str


async def load(store: Store, keyspace: Keyspace) -> Assumption | None:
    """Return the last word on record, None where there is none that can be read: then nobody has vouched."""
    only = KeyRange(keyspace.assumption, after(keyspace.assumption))
    return await anext(record.read_each(store, only, _assumption), None)


def _assumption(item: Item, given: dict[str, object]) -> Assumption:
    fields = Fields.of(given)
    try:
        return Assumption(fields.text("generation"), fields.text("reason"), fields.moment("at"))
    except ValueError as error:
        raise damaged(item.key, error) from None


async def save(store: Store, keyspace: Keyspace, assumption: Assumption) -> None:
    """Put a word in the place of the one before, damaged or not. Raises TemporaryError when etcd does not let us."""
    fields = {"generation": assumption.generation, "reason": assumption.reason, "at": assumption.at}
    for _ in range(_ATTEMPTS):
        before = await store.get(keyspace.assumption)
        try:
            await record.write(store, keyspace.assumption, fields, before.mod_revision if before else 0)
        except RecordChangedError:
            continue
        return
    raise TemporaryError("the record of an operator's word is changed too often by others", delay=1.0)
