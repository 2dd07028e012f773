"""The record of the configuration that the scheduler acted on last: what a restart compares the file with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kube_rewrap.worker.records.campaign import Campaign, completed
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.table import Stored, Table


class Generations(Table[History]):
    """The one record of a state prefix."""

    def _key(self, value: History) -> bytes:  # noqa: ARG002 - there is one place
        return self._keyspace.generation

    def _value(self, fields: Mapping[str, object]) -> History:
        return History.from_json(fields)

    async def load(self) -> Stored[History] | None:
        """Return the record, None where no scheduler has run yet. Raises RecordError when it is damaged."""
        return await self._at(self._keyspace.generation)


def settled(stored: Stored[History] | None, campaigns: Iterable[Campaign], now: GenerationRecord) -> frozenset[str]:
    """Return the resources whose plaintext is late under a configuration: all was proven to be encrypted before.

    A change of the file is no reason to believe any: an attacker who can write to etcd, and not the file, only has to
    wait for the next one. But an operator makes plaintext good by the file: what did not list identity and does now is
    to be taken in, and so is what identity wrote, or what nothing governed.
    """
    known = tuple(campaigns)
    if stored is None:
        return completed(known, now.hash)
    history, here = stored.value, completed(known, now.hash, stored.revision)
    if history.generation.hash == now.hash:
        return history.settled | here
    before = history.settled | completed(known, history.generation.hash, stored.revision)
    both = (history.generation, now)
    return here | {name for name in before if all(one.reads_plaintext(name) for one in both)}
