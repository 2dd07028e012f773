"""Write budgets in etcd: no process encrypts before it has recorded a token for it.

A process reserves tokens in blocks by compare-and-swap and spends them from memory. A crash loses
the rest of its block, so the recorded use of a key is never less than its real use. `reserved` only
grows: if a process finds it smaller than before, or the record is not from this store's past (`Lineage`), the
record was restored from a backup. Its key then counts as exhausted until an operator accepts it (`rewrap keys
--accept`). So does a key without a record at that time: it may be younger than the backup.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.worker.errors import (
    BudgetExhaustedError,
    RecordUnclearError,
    TemporaryError,
)
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.budget import (
    LIMITED_PROVIDER,
    Budget,
    BudgetState,
    Landed,
    Mark,
    as_of_text,
    restored_text,
)
from kube_rewrap.worker.records.budgets import Budgets
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.lineage import Lineage
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.verdict import KeyRef

_ATTEMPTS = 50  # many workers may reserve at the same moment
_MEASURE_SECONDS = 5.0  # a working process notices a restore of etcd within this time
_log = structlog.get_logger()

Change = Callable[[Budget, Observations], Budget]
"""Returns a budget's next value from the recorded one and observations read after it."""


@dataclass(slots=True)
class _Tokens:
    """The tokens of one key that this process reserved, and what it did with them.

    `left` are unspent, `spent` are the others. `landed` are swaps that etcd applied and that are not on record yet, by
    resource. `known` is the budget after the last reservation. `is_due_logged`: this process logged that the key is due
    for rotation.
    """

    left: int = 0
    spent: int = 0
    landed: dict[str, Landed] = field(default_factory=dict)
    known: Budget | None = None
    is_due_logged: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Ledger:
    """The budgets of one cluster, as one process uses them."""

    def __init__(self, store: Store, keyspace: Keyspace, settings: BudgetSettings) -> None:
        self._store = store
        self._keyspace = keyspace
        self._settings = settings
        self._budgets = Budgets(store, keyspace)
        self._observer = ObserverRecords(store, keyspace)
        self._lineage = Lineage(store)
        self._held: dict[str, _Tokens] = {}

    async def all(self) -> dict[str, Budget]:
        """Return every recorded budget by fingerprint. Writes nothing."""
        known, _ = await self._read()
        return known

    async def foreseen(self, keys: Iterable[KeyRef], estimate: Estimate | None) -> dict[str, Budget]:
        """Return every budget as `first_sight` would leave it, new ones included. Writes nothing."""
        known, from_backup = await self._read()
        seen = await self._observations()
        found = {**self._new_budgets(keys, restored=bool(from_backup)), **known}
        return {name: budget.sighted(estimate, seen) if estimate else budget for name, budget in found.items()}

    async def first_sight(
        self, keys: Iterable[KeyRef], estimate: Estimate | None = None, again: Collection[tuple[str, str]] = ()
    ) -> None:
        """Create a budget for each key without one, and add to budgets the estimates of earlier use from `estimate`.

        `keys` are all configured keys. A budget takes one estimate per resource, and another one for each pair of
        resource and fingerprint in `again`. Also marks budgets that were restored from a backup, or lost their watch.
        """
        known, from_backup = await self._read()
        swaps = Counter[str]()
        for budget in known.values():
            swaps.update({resource: own.count for resource, own in budget.own.items()})
        seen = await self._observations()
        for fingerprint, fresh in self._new_budgets(keys, restored=bool(from_backup)).items():
            if fingerprint not in known and await self._budgets.create(
                fresh.sighted(estimate, seen, swaps) if estimate else fresh
            ):
                continue
            if fingerprint in known and not known[fingerprint].names:
                continue  # its record is unreadable
            old = [resource for resource, name in again if name == fingerprint]
            await self._add_estimate(known.get(fingerprint, fresh), fresh.names, estimate, swaps, old)
        lost = [name for name, budget in known.items() if budget.lost_its_watch(seen)]
        if lost:
            because = "the observer's record is gone: how often other clients have encrypted with the keys is not known"
            _log.error("observer.lost", budgets=len(lost), because=because)
        for fingerprint in lost:
            await self._change(fingerprint, _unwatched)
        # Last: after a crash before this, the next call still sees the restore and creates new budgets as restored.
        if from_backup:
            because = "etcd was restored: how often the keys on record have encrypted since the backup is not known"
            _log.error("etcd.restored", budgets=len(from_backup), because=because)
        for fingerprint, made_in in from_backup.items():
            await self._change(fingerprint, self._marking(made_in))

    async def was_restored(self) -> bool:
        """Tell whether budgets that are not marked yet were restored or lost their watch. Writes nothing."""
        known, from_backup = await self._read()
        seen = await self._observations()
        return bool(from_backup) or any(budget.lost_its_watch(seen) for budget in known.values())

    async def begin_new(self, key: KeyRef) -> None:
        """Create the budget of a key that rewrap has just made, and that has never encrypted."""
        await self._lineage.measure()
        born = await self._store.revision()
        await self._budgets.create(
            Budget(
                fingerprint=key.fingerprint,
                provider=key.provider,
                names=(key.name,),
                made_in=self._lineage.mark,
                born=born,
            )
        )

    async def spend(self, key: KeyRef, tokens: int, ahead: int) -> int:
        """Take up to `tokens` of a key and return how many, at least one; the caller may then seal that often.

        `ahead` is how many the caller expects to need in all: the ledger reserves that many at once, up to a
        block. Raises BudgetExhaustedError at the limit, TemporaryError when the reservation fails in etcd.
        """
        held = self._tokens(key)
        await self._lineage.measure(_MEASURE_SECONDS)
        if held.known is not None and not self._lineage.fits(held.known.made_in):
            # A restore of etcd has removed the record of these tokens.
            held.left = 0
            held.landed.clear()
        while held.left == 0:
            async with held.lock:
                if held.left == 0:
                    held.left = await self._reserve(key, held, max(1, min(self._settings.block, ahead)))
        taken = min(tokens, held.left)
        held.left -= taken
        held.spent += taken
        return taken

    def spent(self, key: KeyRef) -> int:
        """Return how many tokens of a key this process has taken."""
        return self._tokens(key).spent

    def landed(self, key: KeyRef, resource: str, *revisions: int) -> None:
        """Note in memory that etcd applied a swap with this key's ciphertext at each of these revisions."""
        if not revisions:
            return
        landed, these = self._tokens(key).landed, Landed(len(revisions), min(revisions), max(revisions))
        landed[resource] = landed[resource] + these if resource in landed else these

    async def settle(self) -> None:
        """Record the swaps that `landed` noted. If a crash loses some, their keys' use is overestimated."""
        for fingerprint, held in list(self._held.items()):  # others may begin with a key while we wait
            await self._settle(fingerprint, held)

    async def _settle(self, fingerprint: str, held: _Tokens) -> None:
        landed, held.landed = held.landed, {}
        if not landed:
            return
        if held.known is not None and not await self._lineage.includes(held.known.made_in):
            return  # these revisions are of the store before a restore
        try:
            await self._land(fingerprint, landed)
        except TemporaryError as error:
            # It may be on record. Counted twice, it would hide as many writes of other clients, so it is not repeated.
            _log.warning("ledger.not_settled", fingerprint=fingerprint, because=str(error))
            raise

    async def _land(self, fingerprint: str, landed: dict[str, Landed]) -> None:
        def landing(budget: Budget, seen: Observations) -> Budget:
            for resource, one in landed.items():
                budget = budget.landing(resource, one, seen)
            return budget

        for _ in range(_ATTEMPTS):
            try:
                await self._budgets.change_once(fingerprint, self._changing(landing))
            except RecordUnclearError as error:
                found = await self._budgets.get(fingerprint)
                own = found.own if found else {}
                if any(resource in own and own[resource].may_hold(one) for resource, one in landed.items()):
                    # Counted twice, they would hide as many writes of other clients, so they are not recorded again.
                    _log.warning("ledger.not_settled", fingerprint=fingerprint, because=str(error))
                    return
            else:
                return

    async def accept(self, fingerprint: str) -> Budget | None:
        """Record that an operator accepts a restored budget as it is; None if no budget is on record."""
        await self._lineage.measure()

        def accepted(budget: Budget, _: Observations) -> Budget:
            return replace(budget, restored=False, made_in=self._lineage.mark, accepted=budget.accepted + 1)

        return await self._change(fingerprint, accepted)

    def _tokens(self, key: KeyRef) -> _Tokens:
        held = self._held.get(key.fingerprint)
        if held is None:
            held = self._held[key.fingerprint] = _Tokens()
        return held

    async def _read(self) -> tuple[dict[str, Budget], dict[str, Mark]]:
        """Return every recorded budget by fingerprint, and the marks of those that were restored from a backup."""
        stored, unreadable = await self._budgets.all()
        seen = await self._observations()  # after the budgets: it must cover each swap that they hold as seen
        await self._lineage.measure()
        from_backup = {one.fingerprint: one.made_in for one in stored if not self._lineage.fits(one.made_in)}
        found = {
            one.fingerprint: replace(
                one.seen_by(seen),
                restored=one.restored or one.fingerprint in from_backup or one.lost_its_watch(seen),
            )
            for one in stored
        }
        # The use of a key with an unreadable record is unknown: it counts as restored, and gets no new record.
        lost = {
            name: Budget(fingerprint=name, provider=LIMITED_PROVIDER, restored=True, made_in=self._lineage.mark)
            for name in unreadable
        }
        return found | lost, from_backup

    def _new_budgets(self, keys: Iterable[KeyRef], *, restored: bool) -> dict[str, Budget]:
        """Return a new budget for each of these keys' fingerprints."""
        return {
            fingerprint: Budget(
                fingerprint=fingerprint,
                provider=named[0].provider,
                names=tuple(sorted({key.name for key in named})),
                restored=restored,
                made_in=self._lineage.mark,
            )
            for fingerprint, named in _by_fingerprint(keys).items()
        }

    async def _add_estimate(
        self,
        budget: Budget,
        names: Iterable[str],
        estimate: Estimate | None,
        swaps: Mapping[str, int],
        again: Collection[str],
    ) -> None:
        """Add names and estimates to a budget; write only if that changes it."""

        def sighted(budget: Budget, seen: Observations) -> Budget:
            # Without resources for which another process recorded a newer scan meanwhile.
            stale = [name for name in again if estimate and (budget.begins(name) or 0) <= estimate.revision]
            budget = replace(budget, names=tuple(sorted({*budget.names, *names})))
            return budget.sighted(estimate, seen, swaps, stale) if estimate else budget

        if sighted(budget, await self._observations()) != budget:
            await self._change(budget.fingerprint, sighted)

    async def _observations(self) -> Observations:
        return (await self._observer.load()).value

    def _marking(self, made_in: Mark) -> Change:
        """Return the change that records `restored`. It does nothing if the budget's mark is no longer `made_in`.

        Then another process has recorded it, and an operator may have accepted the budget since.
        """

        def marked(budget: Budget, _: Observations) -> Budget:
            if budget.made_in != made_in:
                return budget
            return replace(budget, restored=True, made_in=self._lineage.mark)

        return marked

    async def _reserve(self, key: KeyRef, held: _Tokens, want: int) -> int:
        granted = 0
        # Settle the last block's swaps first: until they are recorded as ours, the watch's count adds them again.
        await self._settle(key.fingerprint, held)

        def reserving(budget: Budget, seen: Observations) -> Budget:
            nonlocal granted
            budget = budget.seen_by(seen)
            if _went_backwards(budget, held.known):
                budget = replace(budget, restored=True)
            budget, granted = budget.reserving(want, self._settings.gcm_limit)
            if granted and not budget.restored:
                budget = replace(budget, made_in=self._lineage.mark)
            return budget

        budget = await self._change(key.fingerprint, reserving)
        if budget is None:
            raise BudgetExhaustedError(f"{key} has no write budget on record; run again to begin one")
        held.known = budget
        if granted == 0:
            raise exhausted(key, budget, self._settings.gcm_limit, await self._store.revision())
        self._log_if_due(key, budget, held)
        return granted

    def _log_if_due(self, key: KeyRef, budget: Budget, held: _Tokens) -> None:
        """Log, once per process, that a key is due for rotation."""
        limit = self._settings.gcm_limit
        state = budget.state(limit, self._settings.due_at)
        if state in {BudgetState.DUE, BudgetState.EXHAUSTED} and not held.is_due_logged:
            held.is_due_logged = True
            because = f"{self._settings.due_at:.0%} of its write budget is used: rotate it"
            _log.warning(
                "key.rotation_due", fingerprint=key.fingerprint, used=budget.used, limit=limit, because=because
            )

    def _changing(self, change: Change) -> Callable[[Budget], Awaitable[Budget]]:
        """Return `change` as a change of a recorded budget; it reads the observations after the record."""

        async def changed(budget: Budget) -> Budget:
            seen = await self._observations()
            budget = change(await self._judged(budget), seen)
            return replace(budget, watched=budget.watched or seen.has_begun)

        return changed

    async def _change(self, fingerprint: str, change: Change) -> Budget | None:
        return await self._budgets.change(fingerprint, self._changing(change))

    async def _judged(self, budget: Budget) -> Budget:
        """Return the budget, marked as restored if its record is not from this store's past."""
        return budget if await self._lineage.includes(budget.made_in) else replace(budget, restored=True)


def _unwatched(budget: Budget, seen: Observations) -> Budget:
    return budget.without_its_watch() if budget.lost_its_watch(seen) else budget


def _went_backwards(budget: Budget, known: Budget | None) -> bool:
    """Tell whether a record has fewer reservations than this process saw, and no operator accepted it since."""
    return known is not None and budget.accepted <= known.accepted and budget.reserved < known.reserved


def exhausted(key: KeyRef, budget: Budget, gcm_limit: int, revision: int) -> BudgetExhaustedError:
    """Return the error for a key without tokens left, with what the operator can do; `revision` is the store's."""
    if budget.restored:
        return BudgetExhaustedError(restored_text(key))
    return BudgetExhaustedError(
        f"{key} may encrypt {gcm_limit} times and has used {budget.used}{as_of_text(budget, revision)}. "
        "Rotate to a new key, change to secretbox, "
        "or raise --gcm-limit (at most 4294967296)"
    )


def _by_fingerprint(keys: Iterable[KeyRef]) -> dict[str, list[KeyRef]]:
    found: dict[str, list[KeyRef]] = {}
    for key in keys:
        found.setdefault(key.fingerprint, []).append(key)
    return found
