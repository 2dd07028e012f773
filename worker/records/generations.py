"""The record of the configuration that the scheduler acted on last. After a restart it compares the file with this."""

from __future__ import annotations

from collections.abc import Iterable

from kube_rewrap.worker.records.campaign import Campaign, completed
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.table import Stored, Table


class Generations(Table[History]):
    """A table of one record per state prefix."""

    _kind = History

    def _key(self, _: History) -> bytes:
        return self._keyspace.generation

    async def load(self) -> Stored[History] | None:
        """Return the record, None if no scheduler has run yet. Raises RecordError when it is damaged."""
        return await self._at(self._keyspace.generation)


def late_plaintext(
    stored: Stored[History] | None, campaigns: Iterable[Campaign], now: GenerationRecord
) -> frozenset[str]:
    """Return the resources whose plaintext is late under the configuration `now`: a proof found all encrypted before.

    A change of the file does not make plaintext credible again: an attacker who can write to etcd, but not to the
    file, would only have to wait for the next change. The operator can make it credible by the file: plaintext of a
    resource is not late if the chain before did not read plaintext, or wrote it, or if no chain governed the resource.
    """
    known = tuple(campaigns)
    if stored is None:
        return completed(known, now.hash)
    history, here = stored.value, completed(known, now.hash, stored.revision)
    if history.generation.hash == now.hash:
        return history.late_plaintext | here
    before = history.late_plaintext | completed(known, history.generation.hash, stored.revision)
    both = (history.generation, now)
    return here | {name for name in before if all(one.reads_plaintext(name) for one in both)}
