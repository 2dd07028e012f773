"""Drives a rotation from `rewrap rotate`, without a scheduler.

This process holds the leader's lock meanwhile. If a scheduler leads, that drives the rotation, and this process
follows the record and shows its progress. Each generation of the file is opened as a `Cluster` of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.keks import note_keks
from kube_rewrap.scheduler.registry.scope import EVERYTHING
from kube_rewrap.scheduler.rotation.driver import HandOut, RotationDriver
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.probes import ClusterProbe
from kube_rewrap.scheduler.rotation.transition import CampaignOutcome, Wait
from kube_rewrap.worker.errors import BusyError, RecordError, RefusedError, StoppedError, TemporaryError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import LEASE_SECONDS, open_session, who
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations

_PAUSE_SECONDS = 1.0
_READS = 3  # of the record while a scheduler leads; then this process tries again to lead
_log = structlog.get_logger()

ShowProgress = Callable[[Rotation, str], None]
"""Shows the rotation's step, and why it is at that step or what it waits for."""


class StandaloneProbe(ClusterProbe):
    """Of a process that runs the rotation's campaign itself."""

    async def campaign(self, _rotation: Rotation) -> CampaignOutcome:
        """Run a campaign over everything to its end. Raises RefusedError when objects remain stale or unreadable."""
        cluster = self._cluster
        async with self._brake.below() as brake, hold_lock(cluster, brake, "rewrap rotate", wait=True) as lock:
            plan = await brake.unless_pulled(plan_run(cluster, EVERYTHING))
            await brake.unless_pulled(note_keks(cluster))
            result = await run_embedded(cluster, plan, lock, brake, lambda _report, _batches: None)
        ended = result.campaign
        if not result.proof.is_clean:
            raise RefusedError(
                f"the campaign {ended.id} is {ended.state.value}: {ended.because}. Settle what `rewrap verify` "
                "names, then `rewrap rotate resume`"
            )
        return CampaignOutcome(True, f"the campaign {ended.id} is {ended.state.value}")


class StandaloneRotation:
    """See the module's docstring."""

    def __init__(self, settings: Settings, file: ConfigurationFile, brake: Brake, show: ShowProgress) -> None:
        self._settings = settings
        self._file = file
        self._brake = brake
        self._show = show
        self._keyspace = Keyspace(settings.keyspace.state_prefix)
        self._shown = ("", "")
        self._leader = Repetition()
        self._name = ""
        self._step: RotationStep | None = None
        self._since = 0.0

    async def run(self, planned: Rotation | None, hand_out: HandOut | None) -> Rotation:
        """Begin a planned rotation (None: resume the unfinished one); drive or follow it until it ends or is held.

        Raises RefusedError when another rotation is unfinished, when the file was changed since the plan, or when
        there is none to resume; StoppedError when the brake is pulled, or a step takes longer than the time-out. The
        record stays, and `resume` continues it.
        """
        async with AsyncExitStack() as stack:
            settings = self._settings
            store = await stack.enter_async_context(open_store(settings.etcd, settings.keyspace.state_prefix))
            session = await stack.enter_async_context(open_session(store, self._brake.pull, LEASE_SECONDS))
            while True:
                try:
                    guard = await session.hold(self._keyspace.leader, who("rewrap rotate"))
                except (BusyError, TemporaryError) as busy:
                    # A scheduler leads, or the lease of a process that died has not expired.
                    ended = await self._follow(store, planned, hand_out, str(busy))
                else:
                    ended = await self._drive(planned, hand_out, guard)
                planned = None
                if ended is not None:
                    return ended

    async def _drive(self, planned: Rotation | None, hand_out: HandOut | None, guard: Expect) -> Rotation:
        while True:
            async with self._open_driver(hand_out, [guard]) as (driver, file):
                ended = await self._drive_under(driver, file, planned)
            planned = None
            if ended is not None:
                return ended

    @asynccontextmanager
    async def _open_driver(
        self, hand_out: HandOut | None, guards: Sequence[Expect] = ()
    ) -> AsyncIterator[tuple[RotationDriver, str]]:
        """Yield a driver under the file's present generation, and its hash. `guards` fence the rotation's record."""
        generation = load_generation(await asyncio.to_thread(self._file.read), self._file.path)
        async with open_cluster(self._settings, generation, "rewrap rotate") as cluster:
            engine = cluster.engine
            rotations = Rotations(engine.store, self._keyspace, guards)
            apiservers = ApiserverProbe(self._settings, engine.store, self._file.path)
            probe = StandaloneProbe(cluster, apiservers, self._brake)
            driver = RotationDriver(rotations, self._file, probe, cluster.audit, engine.ledger, hand_out=hand_out)
            yield driver, generation.file_hash

    async def _drive_under(self, driver: RotationDriver, file: str, planned: Rotation | None) -> Rotation | None:
        """Drive under one generation of the file; returns the rotation when it ended or is held, None at a new one."""
        name = self._name = await take_up(driver, planned, self._name)
        while True:
            self._brake.check()
            decision = await driver.step()
            rotation = await _named(driver.rotations, name)
            self._show_once(rotation, decision.because if decision else rotation.because)
            if rotation.step.is_end or rotation.held:
                return rotation
            if await driver.file_hash() != file:
                return None
            if decision is None or isinstance(decision.action, Wait):
                self._require_progress(rotation)
                await self._brake.unless_pulled(asyncio.sleep(_PAUSE_SECONDS))

    async def _follow(
        self, store: Store, planned: Rotation | None, hand_out: HandOut | None, leader: str
    ) -> Rotation | None:
        """Show the progress of the leader's rotation; None after a while, to try again to lead.

        The leader can't hand out files, so this process makes the edits of a rotation by hand.
        """
        if self._leader.begins(leader):
            _log.info("rotation.followed", because=f"the leader drives the rotation: {leader}")
        if not self._name:
            async with self._open_driver(hand_out) as (driver, _):
                self._name = await take_up(driver, planned, "")
        rotations = Rotations(store, self._keyspace)
        for _ in range(_READS):
            self._brake.check()
            rotation = await _named(rotations, self._name)
            if rotation.by_hand and rotation.step.is_edit and not (rotation.edited or rotation.held):
                async with self._open_driver(hand_out) as (driver, _):
                    await driver.step()
            self._show_once(rotation, rotation.held or rotation.waits or rotation.because)
            if rotation.step.is_end or rotation.held:
                return rotation
            self._require_progress(rotation)
            await self._brake.unless_pulled(asyncio.sleep(_PAUSE_SECONDS))
        return None

    def _require_progress(self, rotation: Rotation) -> None:
        """Raise StoppedError when a step exceeds the time-out; a step that waits for an operator's edit has none."""
        now = asyncio.get_running_loop().time()
        if rotation.step is not self._step or (rotation.by_hand and rotation.step.is_edit):
            self._step, self._since = rotation.step, now
        bound = self._settings.apiservers.converge_timeout
        if now > self._since + bound:
            raise StoppedError(
                f"the rotation made no progress for {bound:.0f} s (--converge-timeout) at the step "
                f"{rotation.step.value}: {rotation.waits or rotation.because}. `rewrap rotate resume` continues it"
            )

    def _show_once(self, rotation: Rotation, because: str) -> None:
        """Show progress, once for each step and reason in a row."""
        if (rotation.step.value, because) != self._shown:
            self._shown = (rotation.step.value, because)
            self._show(rotation, because)


async def take_up(driver: RotationDriver, planned: Rotation | None, name: str) -> str:
    """Return the id of the rotation to drive: `name` if it is set, else that of the planned or the unfinished one.

    Raises RefusedError.
    """
    if name:
        return name
    stored = await driver.rotations.unfinished()
    if planned is not None and stored is not None:
        raise RefusedError(
            f"the rotation {stored.value.id} is at the step {stored.value.step.value}: continue it "
            "with `rewrap rotate resume`, or end it with `rewrap rotate abort`"
        )
    if planned is not None:
        return (await driver.begin(planned)).id
    if stored is None:
        raise RefusedError("no rotation is under way; `rewrap rotate` begins one")
    return stored.value.id


async def _named(rotations: Rotations, name: str) -> Rotation:
    found = next((one.value for one in await rotations.all() if one.value.id == name), None)
    if found is None:
        raise RecordError(f"the record of the rotation {name} is missing; see `rewrap rotate status`")
    return found
