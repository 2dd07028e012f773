"""Write budgets in etcd: no key encrypts before its token is recorded.

A process reserves tokens in blocks by compare-and-swap and spends them from memory. A crash loses
the rest of its block, so the recorded use of a key is never less than its real use. `reserved` only
grows: a record that is found smaller than it was, or is not from this store's past (`Lineage`), came
back with a backup, and its key counts as exhausted until an operator accepts that (`rewrap keys
--accept`). So does a key that has no record then: it may be younger than the backup.
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
from kube_rewrap.worker.records import observations
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
from kube_rewrap.worker.records.inventory import Look
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.lineage import Lineage
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.verdict import KeyRef

_ATTEMPTS = 50  # many workers may reserve at the same moment
_LOOK_SECONDS = 5.0  # a process that works on learns that soon that its etcd was restored
_log = structlog.get_logger()

Change = Callable[[Budget, Observations], Budget]
"""What becomes of a budget, with what was observed no earlier than the budget's record."""


@dataclass(slots=True)
class _Purse:
    """What this process holds of one key.

    Tokens left, swaps landed but not recorded by resource, the record as last seen, and whether it was told
    that the key is due for rotation.
    """

    left: int = 0
    landed: dict[str, Landed] = field(default_factory=dict)
    known: Budget | None = None
    told_due: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Ledger:
    """The budgets of one cluster, as one process uses them."""

    def __init__(self, store: Store, keyspace: Keyspace, settings: BudgetSettings) -> None:
        self._store = store
        self._keyspace = keyspace
        self._settings = settings
        self._budgets = Budgets(store, keyspace)
        self._lineage = Lineage(store)
        self._purses: dict[str, _Purse] = {}

    async def all(self) -> dict[str, Budget]:
        """Return every recorded budget by fingerprint. Writes nothing."""
        known, _ = await self._read()
        return known

    async def foreseen(self, keys: Iterable[KeyRef], look: Look | None) -> dict[str, Budget]:
        """Return every recorded budget as `first_sight` would leave it. Writes nothing."""
        known, from_backup = await self._read()
        seen = await self._seen()
        found = {**self._begun(keys, restored=bool(from_backup)), **known}
        return {name: budget.sighted(look, seen) if look else budget for name, budget in found.items()}

    async def first_sight(
        self, keys: Iterable[KeyRef], look: Look | None = None, again: Collection[tuple[str, str]] = ()
    ) -> None:
        """Begin a budget for each key that has none, and add what a look at its objects tells of earlier use.

        `keys` are all that are configured. That is done once for each key and resource; for those `again`, by
        resource and fingerprint, also a second time.
        """
        known, from_backup = await self._read()
        swaps = Counter[str]()
        for budget in known.values():
            swaps.update({resource: own.count for resource, own in budget.own.items()})
        seen = await self._seen()
        for fingerprint, fresh in self._begun(keys, restored=bool(from_backup)).items():
            if fingerprint not in known and await self._budgets.create(
                fresh.sighted(look, seen, swaps) if look else fresh
            ):
                continue
            if fingerprint in known and not known[fingerprint].names:
                continue  # its record can't be read
            anew = [resource for resource, name in again if name == fingerprint]
            await self._see(known.get(fingerprint, fresh), fresh.names, look, swaps, anew)
        lost = [name for name, budget in known.items() if budget.lost_its_watch(seen)]
        if lost:
            because = (
                "the observer's record is gone: how often others have encrypted with the keys on record is not known"
            )
            _log.error("observer.lost", budgets=len(lost), because=because)
        for fingerprint in lost:
            await self._change(fingerprint, _unwatched)
        # Last: a crash before this marks what is without a record all the same, next time.
        if from_backup:
            because = "etcd was restored: how often the keys on record have encrypted since the backup is not known"
            _log.error("etcd.restored", budgets=len(from_backup), because=because)
        for fingerprint, made_in in from_backup.items():
            await self._change(fingerprint, self._noted(made_in))

    async def was_restored(self) -> bool:
        """Tell whether budgets came back with a backup that `first_sight` has not marked yet. Writes nothing."""
        known, from_backup = await self._read()
        seen = await self._seen()
        return bool(from_backup) or any(budget.lost_its_watch(seen) for budget in known.values())

    async def begin_new(self, key: KeyRef) -> None:
        """Begin the budget of a key that was made a moment ago, and has never encrypted."""
        await self._lineage.look()
        born = await self._store.revision()
        await self._budgets.create(
            Budget(key.fingerprint, key.provider, (key.name,), made_in=self._lineage.mark, born=born)
        )

    async def spend(self, key: KeyRef, tokens: int, ahead: int) -> int:
        """Take up to `tokens` of a key, at least one; the caller may then seal as often as it got.

        `ahead` is how many are likely to be wanted in all: so many are reserved at once, up to a
        block. Raises BudgetExhaustedError at the limit, TemporaryError when etcd does not let us reserve.
        """
        purse = self._purse(key)
        await self._lineage.look(_LOOK_SECONDS)
        if purse.known is not None and not self._lineage.fits(purse.known.made_in):
            # These tokens are on no record any more.
            purse.left = 0
            purse.landed.clear()
        while purse.left == 0:
            async with purse.lock:
                if purse.left == 0:
                    purse.left = await self._reserve(key, purse, max(1, min(self._settings.block, ahead)))
        taken = min(tokens, purse.left)
        purse.left -= taken
        return taken

    def landed(self, key: KeyRef, resource: str, revision: int) -> None:
        """Note that a swap with this key's ciphertext was applied, and at which revision."""
        landed, one = self._purse(key).landed, Landed(1, revision, revision)
        landed[resource] = landed[resource] + one if resource in landed else one

    async def settle(self) -> None:
        """Record what landed. What a crash keeps from being recorded errs upwards."""
        for fingerprint, purse in list(self._purses.items()):  # others may begin a purse while we wait
            await self._settle(fingerprint, purse)

    async def _settle(self, fingerprint: str, purse: _Purse) -> None:
        landed, purse.landed = purse.landed, {}
        if not landed:
            return
        if purse.known is not None and not await self._lineage.includes(purse.known.made_in):
            return  # these revisions are another store's
        try:
            await self._land(fingerprint, landed)
        except TemporaryError as error:
            # Perhaps it is on record. Counted twice, it would hide as many writes of others: rather not at all.
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
                    # Counted twice, they would hide as many writes of others: rather not at all.
                    _log.warning("ledger.not_settled", fingerprint=fingerprint, because=str(error))
                    return
            else:
                return

    async def accept(self, fingerprint: str) -> Budget | None:
        """Take a restored budget as it is from now on, at an operator's word; None where there is none."""
        await self._lineage.look()

        def accepted(budget: Budget, _: Observations) -> Budget:
            return replace(budget, restored=False, made_in=self._lineage.mark, accepted=budget.accepted + 1)

        return await self._change(fingerprint, accepted)

    def _purse(self, key: KeyRef) -> _Purse:
        purse = self._purses.get(key.fingerprint)
        if purse is None:
            purse = self._purses[key.fingerprint] = _Purse()
        return purse

    async def _read(self) -> tuple[dict[str, Budget], dict[str, Mark]]:
        """Return every recorded budget by fingerprint, and the marks of those that came back with a backup."""
        stored, unreadable = await self._budgets.all()
        seen = await self._seen()  # not before: what a budget takes for seen must be
        await self._lineage.look()
        from_backup = {one.fingerprint: one.made_in for one in stored if not self._lineage.fits(one.made_in)}
        found = {
            one.fingerprint: replace(
                one.seen_by(seen),
                restored=one.restored or one.fingerprint in from_backup or one.lost_its_watch(seen),
            )
            for one in stored
        }
        # How often such a key has encrypted is not known: it is refused, and not begun at nothing.
        lost = {name: Budget(name, LIMITED_PROVIDER, restored=True, made_in=self._lineage.mark) for name in unreadable}
        return found | lost, from_backup

    def _begun(self, keys: Iterable[KeyRef], *, restored: bool) -> dict[str, Budget]:
        """Return the budgets of these keys as they would begin."""
        return {
            fingerprint: Budget(
                fingerprint,
                named[0].provider,
                tuple(sorted({key.name for key in named})),
                restored=restored,
                made_in=self._lineage.mark,
            )
            for fingerprint, named in _by_fingerprint(keys).items()
        }

    async def _see(
        self,
        budget: Budget,
        names: Iterable[str],
        look: Look | None,
        swaps: Mapping[str, int],
        again: Collection[str],
    ) -> None:
        """Add names and estimates to a budget, where there is something to add."""

        def sighted(budget: Budget, seen: Observations) -> Budget:
            # What another process looked at again meanwhile is not looked at twice.
            stale = [name for name in again if look and (budget.begins(name) or 0) <= look.revision]
            budget = replace(budget, names=tuple(sorted({*budget.names, *names})))
            return budget.sighted(look, seen, swaps, stale) if look else budget

        if sighted(budget, await self._seen()) != budget:
            await self._change(budget.fingerprint, sighted)

    async def _seen(self) -> Observations:
        return await observations.load(self._store, self._keyspace)

    def _noted(self, made_in: Mark) -> Change:
        """Return the change that marks a budget for good, unless somebody else did, and it was accepted since."""

        def noted(budget: Budget, _: Observations) -> Budget:
            if budget.made_in != made_in:
                return budget
            return replace(budget, restored=True, made_in=self._lineage.mark)

        return noted

    async def _reserve(self, key: KeyRef, purse: _Purse, want: int) -> int:
        granted = 0
        # First what is known of the last block: not taken for ours, what the watch saw of it would count twice.
        await self._settle(key.fingerprint, purse)

        def reserving(budget: Budget, seen: Observations) -> Budget:
            nonlocal granted
            budget = budget.seen_by(seen)
            if _went_backwards(budget, purse.known):
                budget = replace(budget, restored=True)
            budget, granted = budget.reserving(want, self._settings.gcm_limit)
            if granted and not budget.restored:
                budget = replace(budget, made_in=self._lineage.mark)
            return budget

        budget = await self._change(key.fingerprint, reserving)
        if budget is None:
            raise BudgetExhaustedError(f"{key} has no write budget on record; run again to begin one")
        purse.known = budget
        if granted == 0:
            raise exhausted(key, budget, self._settings.gcm_limit, await self._store.revision())
        self._tell_due(key, budget, purse)
        return granted

    def _tell_due(self, key: KeyRef, budget: Budget, purse: _Purse) -> None:
        """Log once a process that a key should be rotated."""
        limit = self._settings.gcm_limit
        state = budget.state(limit, self._settings.due_at)
        if state in {BudgetState.DUE, BudgetState.EXHAUSTED} and not purse.told_due:
            purse.told_due = True
            because = f"{self._settings.due_at:.0%} of its write budget are used up: rotate it"
            _log.warning(
                "key.rotation_due", fingerprint=key.fingerprint, used=budget.used, limit=limit, because=because
            )

    def _changing(self, change: Change) -> Callable[[Budget], Awaitable[Budget]]:
        """Return a change of a recorded budget, with what was observed no earlier than the record was read."""

        async def changed(budget: Budget) -> Budget:
            seen = await self._seen()
            budget = change(await self._judged(budget), seen)
            return replace(budget, watched=budget.watched or bool(seen.revision))

        return changed

    async def _change(self, fingerprint: str, change: Change) -> Budget | None:
        return await self._budgets.change(fingerprint, self._changing(change))

    async def _judged(self, budget: Budget) -> Budget:
        """Return the budget, marked as restored where its record is not from this store's past."""
        return budget if await self._lineage.includes(budget.made_in) else replace(budget, restored=True)


def _unwatched(budget: Budget, seen: Observations) -> Budget:
    return budget.without_its_watch() if budget.lost_its_watch(seen) else budget


def _went_backwards(budget: Budget, known: Budget | None) -> bool:
    """Tell whether a record lost what was seen of it, and no operator has taken it as it is since."""
    return known is not None and budget.accepted <= known.accepted and budget.reserved < known.reserved


def exhausted(key: KeyRef, budget: Budget, gcm_limit: int, revision: int) -> BudgetExhaustedError:
    """Return the refusal for a key whose budget is used up, with the ways out; `revision` is the store's."""
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
