"""Reads from etcd's records what `rewrap top` shows; writes nothing, and scans no object.

A look takes a few reads whatever the size of the registry, and one page a campaign or so: of the batches of an
unfinished campaign it decodes those that changed since the look before. Budgets, rotations and sizes change slowly:
they are read every `_SLOW_SECONDS`, and the kube-apiservers are asked every `_PROBE_SECONDS`, beside the looks.

A part whose records can't be read, or that etcd's user may not read, becomes a sentence in `Facts.gaps`. Where etcd
does not answer, a look raises TemporaryError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe
from kube_rewrap.scheduler.top.facts import (
    NO_KEYS,
    NOT_PROBED,
    CampaignFacts,
    EtcdFacts,
    Facts,
    KeyFacts,
    Lock,
    Probed,
)
from kube_rewrap.scheduler.top.snapshot import Sample, Snapshot, sampled, snapshot
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import PermanentError, TemporaryError, UnavailableError, WorkerError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import MemberStatus, Store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.claims import Claims
from kube_rewrap.worker.records.followed import Followed
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.handbacks import Handbacks
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.ownership import holder_in
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.request import Request, RequestKind, RequestState
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.usages import Usages

EVENTS = 50
"""Entries of the audit log that a look reads."""

_ANSWER_SECONDS = 3.0
"""How long etcd may take for one read before it counts as away; `call_timeout` is for work that may wait."""

_LOOK_SECONDS = 20.0
_SLOW_SECONDS = 5.0
_PROBE_SECONDS = 15.0
_NO_CONFIGURATION = (
    "not known: no scheduler has recorded the configuration in force; `rewrap converged FILE` checks a file"
)

T = TypeVar("T")

Show = Callable[[Snapshot | None, str], None]
"""Called after each look with what it showed, None before the first; and why etcd can't be read now, "" = it can."""


class _Slow:
    """The parts that are read every `_SLOW_SECONDS`."""

    def __init__(self) -> None:
        self.read_at = -_SLOW_SECONDS
        self.members: tuple[MemberStatus, ...] = ()
        self.alarms: tuple[str, ...] = ()
        self.keys: KeyFacts = NO_KEYS
        self.rotation: Rotation | None = None
        self.in_force: GenerationRecord | None = None
        self.gaps: tuple[str, ...] = ()


class Gatherer:
    """Looks at one cluster; keeps what the next look needs of this one."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._keyspace = Keyspace(settings.keyspace.state_prefix)
        self._ledger = Ledger(store, self._keyspace, settings.budget)
        self._batches: dict[str, Followed[Checkpoint]] = {}
        self._parts: dict[str, Followed[ProofPart]] = {}
        self._history: dict[str, tuple[Sample, ...]] = {}
        self._slow = _Slow()
        self._probed = NOT_PROBED
        self._gaps: list[str] = []

    async def look(self) -> Snapshot:
        """Read, and return what to show. Raises TemporaryError when etcd does not answer."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                revision = await self._store.revision()
            latency = time.monotonic() - began
            async with asyncio.timeout(_LOOK_SECONDS):
                facts = await self._facts(latency, revision)
        except TimeoutError:
            raise UnavailableError("etcd gave no answer in time") from None
        self._history = sampled(self._history, facts)
        return snapshot(facts, self._history, self._settings)

    async def _facts(self, latency: float, revision: int) -> Facts:
        self._gaps = []
        if time.monotonic() >= self._slow.read_at + _SLOW_SECONDS:
            await self._read_slow()
        slow, self._gaps = self._slow, [*self._slow.gaps]
        endpoints = len(self._settings.etcd.endpoints)
        return Facts(
            at=datetime.now(UTC),
            etcd=EtcdFacts(latency, revision, endpoints, slow.members, slow.alarms),
            leader=await self._part("the leader", self._lock(self._keyspace.leader), None),
            owner=await self._part("the lock on campaigns", self._lock(self._keyspace.owner), None),
            campaigns=await self._part("campaigns", self._campaigns(), ()),
            requests=await self._part("requests", self._requests(), ()),
            handbacks=await self._part("handbacks", self._handbacks(), ()),
            rotation=slow.rotation,
            keys=slow.keys,
            in_force=slow.in_force,
            apiservers=self._probed,
            events=await self._part("the audit log", self._audit_log().newest(EVENTS), ()),
            gaps=tuple(dict.fromkeys(self._gaps)),
        )

    async def _part(self, name: str, reading: Awaitable[T], otherwise: T) -> T:
        """Await a part of the look; what can't be read is a gap."""
        try:
            return await reading
        except PermanentError as error:
            self._gaps.append(f"{name}: {error}")
            return otherwise

    async def _read_slow(self) -> None:
        slow = _Slow()
        slow.members = await self._part("etcd's size", self._members(), ())
        slow.alarms = await self._part("etcd's alarms", self._store.alarms(), ())
        slow.keys = await self._part("write budgets", self._keys(), NO_KEYS)
        slow.rotation = await self._part("rotations", self._rotation(), None)
        slow.in_force = await self._part("the configuration in force", self._in_force(), None)
        slow.gaps, slow.read_at = tuple(self._gaps), time.monotonic()
        self._slow = slow

    async def _members(self) -> tuple[MemberStatus, ...]:
        return tuple(await self._store.members())

    async def _lock(self, key: bytes) -> Lock | None:
        item = await self._store.get(key)
        return None if item is None else Lock(holder_in(item))

    async def _campaigns(self) -> tuple[CampaignFacts, ...]:
        stored, damaged = await Campaigns(self._store, self._keyspace).all_or_why()
        self._gaps += [f"the campaign {name}: {because}" for name, because in damaged]
        found = [one.value for one in stored]
        unfinished = {one.id for one in found if not one.state.is_end}
        self._batches = {name: seen for name, seen in self._batches.items() if name in unfinished}
        proving = {one.id for one in found if one.state is CampaignState.PROVING}
        self._parts = {name: seen for name, seen in self._parts.items() if name in proving}
        return tuple([await self._campaign(one) for one in found])

    async def _campaign(self, campaign: Campaign) -> CampaignFacts:
        if campaign.state.is_end:
            return CampaignFacts(campaign)
        followed = self._batches.setdefault(campaign.id, Followed(Checkpoints(self._store, self._keyspace).changed))
        claims = await Claims(self._store, self._keyspace).all(campaign.id)
        held = tuple((claim.number, claim.holder) for claim in claims)
        batches = tuple(await followed.look(campaign.id))
        if campaign.state is not CampaignState.PROVING:
            return CampaignFacts(campaign, batches, held)
        scanned = self._parts.setdefault(campaign.id, Followed(Proofs(self._store, self._keyspace).changed))
        return CampaignFacts(campaign, batches, held, tuple(await scanned.look(campaign.id)))

    async def _requests(self) -> tuple[Request, ...]:
        stored, damaged = await Requests(self._store, self._keyspace).all_or_why()
        self._gaps += [f"the request {name}: {because}" for name, because in damaged]
        return tuple(
            one.value
            for one in stored
            if one.value.kind is RequestKind.START and one.value.state is RequestState.WAITING
        )

    async def _handbacks(self) -> tuple[Handback, ...]:
        return tuple(await Handbacks(self._store, self._keyspace).all())

    async def _keys(self) -> KeyFacts:
        budgets = await self._ledger.all()
        seen = (await ObserverRecords(self._store, self._keyspace).load()).value
        usage = (await Usages(self._store, self._keyspace).load()).value
        keks = tuple(one.value for one in await Keks(self._store, self._keyspace).all())
        return KeyFacts(tuple(budgets.values()), seen.since, usage, keks)

    async def _rotation(self) -> Rotation | None:
        found = await Rotations(self._store, self._keyspace).unfinished()
        return found.value if found is not None else None

    async def _in_force(self) -> GenerationRecord | None:
        known = await Generations(self._store, self._keyspace).load()
        return known.value.generation if known is not None else None

    def _audit_log(self) -> AuditLog:
        return AuditLog(self._store, self._keyspace, "rewrap top")

    async def probe(self) -> None:
        """Ask the kube-apiservers whether they run the configuration in force; the next look shows the answer."""
        try:
            known = await self._in_force()
            if known is None:
                self._probed = Probed(because=_NO_CONFIGURATION)
                return
            found = await ApiserverProbe(self._settings, self._store).probe(known.file)
        except (ConfigError, WorkerError) as error:
            self._probed = Probed(because=f"not known: {error}")
        else:
            self._probed = Probed(found)

    async def keep_probing(self) -> NoReturn:
        """Probe every `_PROBE_SECONDS` until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(_PROBE_SECONDS)


async def look_once(settings: Settings) -> Snapshot:
    """Return what one look shows. Raises the errors of `open_store`, and TemporaryError."""
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        gatherer = Gatherer(store, settings)
        await gatherer.probe()
        return await gatherer.look()


async def follow(settings: Settings, show: Show, seconds: float) -> NoReturn:
    """Look every so many seconds until cancelled; an etcd that is away is looked for again as often.

    Raises ConfigError and PermanentError, such as for refused credentials.
    """
    short = replace(settings.etcd, connect_timeout=min(_ANSWER_SECONDS, settings.etcd.connect_timeout))
    while True:
        try:
            async with open_store(short, settings.keyspace.state_prefix) as store:
                await _follow(Gatherer(store, settings), show, seconds)
        except TemporaryError as error:
            show(None, str(error))
        await asyncio.sleep(seconds)


async def _follow(gatherer: Gatherer, show: Show, seconds: float) -> NoReturn:
    last: Snapshot | None = None
    probing = asyncio.create_task(gatherer.keep_probing(), name="top: kube-apiservers")
    try:
        while True:
            try:
                last = await gatherer.look()
            except TemporaryError as error:
                show(last, str(error))
            else:
                show(last, "")
            await asyncio.sleep(seconds)
    finally:
        await cancel_all(probing)
