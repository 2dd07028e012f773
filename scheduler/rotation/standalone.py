"""A rotation driven by this process alone, in the place of a leading scheduler.

It holds the leader's lock: where a scheduler leads, that one drives the rotation, and this process only
follows the record. Each content of the file has a service of its own, as each reign has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from kube_rewrap.config.encryption.generation import content_hash, load_generation
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import converged_by
from kube_rewrap.scheduler.campaigns.run import EVERYTHING
from kube_rewrap.scheduler.campaigns.service import Service, open_service
from kube_rewrap.scheduler.rotation.driver import Blind, Books, ConfigurationFile, Rotator
from kube_rewrap.scheduler.rotation.probes import Campaigner, ClusterSenses
from kube_rewrap.scheduler.rotation.transition import Campaigned, Wait
from kube_rewrap.worker.errors import BusyError, RecordError, RefusedError, StoppedError, TemporaryError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.ownership import LEASE_SECONDS, open_session, who
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations

_LOOK_SECONDS = 1.0
_LOOKS = 3  # at the record, before it is tried again to lead
_log = structlog.get_logger()

Teller = Callable[[Rotation, str], None]
"""Is told of every step and of everything that is waited for."""

Handed = Callable[[Rotation, bytes], None]
"""Is given the content that an operator has to put in place."""


class AloneRotation:
    """See the module's docstring."""

    def __init__(self, settings: Settings, file: ConfigurationFile, brake: Brake, tell: Teller) -> None:
        self._settings = settings
        self._file = file
        self._brake = brake
        self._tell = tell
        self._keyspace = Keyspace(settings.keyspace.state_prefix)
        self._said = ("", "")
        self._leader = ""
        self._name = ""
        self._step: RotationStep | None = None
        self._since = 0.0

    async def run(self, planned: Rotation | None, by_hand: Handed | None) -> Rotation:
        """Begin a planned rotation (None: only go on), and drive or follow it to its end, or to where it is held.

        Raises RefusedError when one is under way already, when the file was changed since, or when there is
        none to go on with, StoppedError when the brake is pulled or nothing moves for long: what is on
        record goes on later.
        """
        async with AsyncExitStack() as stack:
            settings = self._settings
            store = await stack.enter_async_context(open_store(settings.etcd, settings.keyspace.state_prefix))
            session = await stack.enter_async_context(open_session(store, self._brake.pull, LEASE_SECONDS))
            while True:
                try:
                    guard = await session.hold(self._keyspace.leader, who("rewrap rotate"))
                except (BusyError, TemporaryError) as busy:
                    # A scheduler, or somebody who died a moment ago and whose lock is still there.
                    ended = await self._follow(store, planned, by_hand, str(busy))
                else:
                    ended = await self._drive(planned, by_hand, guard)
                planned = None
                if ended is not None:
                    return ended

    async def _drive(self, planned: Rotation | None, by_hand: Handed | None, guard: Expect) -> Rotation:
        while True:
            raw = await asyncio.to_thread(self._file.read)
            generation = load_generation(raw, self._file.path)
            async with open_service(self._settings, generation, "rewrap rotate") as service:
                ended = await self._drive_under(service, planned, by_hand, guard)
            planned = None
            if ended is not None:
                return ended

    async def _drive_under(
        self, service: Service, planned: Rotation | None, by_hand: Handed | None, guard: Expect
    ) -> Rotation | None:
        """Drive while the file stays as it is; returns the rotation when it ended or is held."""
        rotations = Rotations(service.engine.store, self._keyspace, [guard])
        converged = converged_by(self._settings, service.engine.store, self._file.path)
        senses = ClusterSenses(service, converged, self._campaigner(service), self._brake)
        books = Books(service.audit, service.engine.ledger)
        rotator = Rotator(rotations, self._file, senses, books, by_hand)
        name = self._name = await take_up(rotations, rotator, planned, self._name)
        while True:
            self._brake.check()
            decided = await rotator.step()
            rotation = await _named(rotations, name)
            self._say(rotation, decided.because if decided else rotation.because)
            if rotation.step.is_end or rotation.held:
                return rotation
            raw = await asyncio.to_thread(self._file.read)
            if content_hash(raw) != service.generation.hash:
                return None
            if decided is None or isinstance(decided.action, Wait):
                self._require_progress(rotation)
                await self._brake.unless_pulled(asyncio.sleep(_LOOK_SECONDS))

    def _campaigner(self, service: Service) -> Campaigner:
        """Return how this process sees to campaigns: it runs them."""

        async def campaigner(_rotation: Rotation) -> Campaigned:
            order = replace(EVERYTHING, wait=True)
            async with self._brake.below() as brake, service.owned(order, brake, "rewrap rotate") as lock:
                plan = await brake.unless_pulled(service.plan(order))
                result = await service.run(plan, order, lock, brake, lambda _report, _batches: None)
            ended = result.campaign
            if not result.proof.is_clean:
                raise RefusedError(
                    f"the campaign {ended.id} is {ended.state.value}: {ended.because}. Settle what `rewrap verify` "
                    "names, then `rewrap rotate resume`"
                )
            return Campaigned(True, f"the campaign {ended.id} is {ended.state.value}")

        return campaigner

    async def _follow(
        self, store: Store, planned: Rotation | None, by_hand: Handed | None, leader: str
    ) -> Rotation | None:
        """Show how far whoever leads has come; None after a while, to see whether somebody still does.

        The edits of a rotation by hand are prepared here all the same.
        """
        if leader != self._leader:
            self._leader = leader
            _log.info("rotation.followed", because=f"whoever leads drives it: {leader}")
        ledger = Ledger(store, self._keyspace, self._settings.budget)
        books = Books(AuditLog(store, self._keyspace, "rewrap rotate"), ledger)
        rotations = Rotations(store, self._keyspace)
        rotator = Rotator(rotations, self._file, Blind(), books, by_hand)
        name = self._name = await take_up(rotations, rotator, planned, self._name)
        for _ in range(_LOOKS):
            self._brake.check()
            rotation = await _named(rotations, name)
            if rotation.by_hand and rotation.step.is_edit and not rotation.edited:
                await rotator.step()
            self._say(rotation, rotation.held or rotation.waits or rotation.because)
            if rotation.step.is_end or rotation.held:
                return rotation
            self._require_progress(rotation)
            await self._brake.unless_pulled(asyncio.sleep(_LOOK_SECONDS))
        return None

    def _require_progress(self, rotation: Rotation) -> None:
        """Raise StoppedError when one step takes too long; how long an operator takes with a file is their affair."""
        now = asyncio.get_running_loop().time()
        if rotation.step is not self._step or (rotation.by_hand and rotation.step.is_edit):
            self._step, self._since = rotation.step, now
        bound = self._settings.apiservers.converge_timeout
        if now > self._since + bound:
            raise StoppedError(
                f"nothing moved for {bound:.0f} s (--converge-timeout) at the step {rotation.step.value}: "
                f"{rotation.waits or rotation.because}. `rewrap rotate resume` goes on"
            )

    def _say(self, rotation: Rotation, because: str) -> None:
        if (rotation.step.value, because) != self._said:
            self._said = (rotation.step.value, because)
            self._tell(rotation, because)


async def take_up(rotations: Rotations, rotator: Rotator, planned: Rotation | None, name: str) -> str:
    """Return the name of the rotation to work on; `name` is the one that is worked on already, "" = none.

    Raises RefusedError.
    """
    if name:
        return name
    stored = await rotations.unfinished()
    if planned is not None and stored is not None:
        raise RefusedError(
            f"the rotation {stored.value.id} is at the step {stored.value.step.value}: go on with "
            "`rewrap rotate resume`, or end it with `rewrap rotate abort`"
        )
    if planned is not None:
        return (await rotator.begin(planned)).id
    if stored is None:
        raise RefusedError("no rotation is under way; `rewrap rotate` begins one")
    return stored.value.id


async def _named(rotations: Rotations, name: str) -> Rotation:
    found = next((one.value for one in await rotations.all() if one.value.id == name), None)
    if found is None:
        raise RecordError(f"the record of the rotation {name} is missing; see `rewrap rotate status`")
    return found
