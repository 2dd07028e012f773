"""The leader's controllers under one generation of the configuration: tasks under the leader's lease.

- The write observer watches every governed write. It starts before the generation is accepted.
- The key monitor measures the use of write budgets, and logs keys that are due.
- The rotation controller begins the rotation of a due key, and takes the steps of the unfinished rotation.
- The campaign controller plans requests, and drives one campaign at a time.
- The full check controller scans all governed objects at intervals, and requests a campaign for stale ones.
- Housekeeping requests repairs of drift, and deletes old records.

Each controller reads records, decides by a pure function, acts, and logs why. If one fails, all are cancelled and its
error is raised; the daemon then gives up leadership, and the next leader continues from the records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ConvergenceProbe
from kube_rewrap.scheduler.campaigns.controller import CampaignController, LeaderContext
from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH
from kube_rewrap.scheduler.daemon.acceptance import Acceptance
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.keys.alerts import LoggedAlert
from kube_rewrap.scheduler.keys.meter import Meter
from kube_rewrap.scheduler.keys.monitor import KeyMonitor
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.registry.budgets import note_restore
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.rotation.controller import RotationController
from kube_rewrap.scheduler.rotation.driver import RotationDriver
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.probes import LeaderProbe
from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.scheduler.upkeep.figures import Figures
from kube_rewrap.scheduler.upkeep.full_check import FullCheckController, Schedule
from kube_rewrap.scheduler.upkeep.housekeeping import Housekeeping
from kube_rewrap.scheduler.upkeep.repairs import Drift, Repaired
from kube_rewrap.worker.background import background
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.try_counter import TryCounter
from kube_rewrap.worker.records.usages import Usages

_LAG_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LeaderState:
    """What one leader keeps across generations: metrics, the last alert logged for each key, drift and its repairs.

    `drift` is what no repair was requested for yet, since its place pauses. A new generation may look at nothing.
    """

    metrics: SchedulerMetrics
    alerts: dict[str, LoggedAlert] = field(default_factory=dict)
    drift: Drift = field(default_factory=Drift)
    repaired: Repaired = field(default_factory=Repaired)


@dataclass(frozen=True, slots=True)
class ControllerContext:
    """Dependencies of one generation's controllers. `guard` is the leader's fencing token; `brake` stops them.

    The controllers call `accepted` when the generation is in force. `before` is the hash of the generation that this
    leader accepted last, "" = none. `held` as in LeaderContext.
    """

    guard: Expect
    brake: Brake
    state: LeaderState
    file: ConfigurationFile
    apiservers: ConvergenceProbe
    accepted: Callable[[], None]
    held: Callable[[], str]
    before: str = ""


class Controllers:
    """See the module's docstring."""

    def __init__(self, settings: Settings, cluster: Cluster, sender: Sender, context: ControllerContext) -> None:
        self._context = context
        store, keyspace = cluster.engine.store, cluster.engine.keyspace
        self.leader = leader = LeaderContext(
            settings=settings,
            cluster=cluster,
            guard=context.guard,
            campaigns=Campaigns(store, keyspace, [context.guard]),
            backlog=RequestBacklog(Requests(store, keyspace, [context.guard]), cluster.audit),
            figures=Figures(cluster, context.guard, context.state.metrics),
            schedule=Schedule(settings.service.resync),
            held=context.held,
        )
        drift, repaired = context.state.drift, context.state.repaired
        drift.keep(lambda name: cluster.generation.configuration.providers_for(GroupResource.parse(name)) is not None)
        self.observer = Observer(cluster, context.guard, Listeners(self.drifted, leader.schedule.soon))
        self.key_monitor = self._key_monitor()
        self._rotation = self._rotation_controller()
        self._campaigns = CampaignController(leader, context.brake, sender, context.apiservers, repaired)
        self.full_check = FullCheckController(
            cluster, leader.campaigns, leader.backlog, leader.figures, leader.schedule
        )
        tries = TryCounter(store, keyspace, MOST_FRESH, [context.guard])
        self._housekeeping = Housekeeping(
            leader.backlog, leader.figures, drift, repaired, audit=cluster.audit, tries=tries
        )

    async def run(self) -> None:
        """Run until the brake is pulled. Raises the brake's reason, and OutdatedError for an old copy of the file."""
        leader, cluster, brake = self.leader, self.leader.cluster, self._context.brake
        acceptance = Acceptance(leader, describe(cluster.generation), self._context.before)
        history = await acceptance.current()
        await brake.unless_pulled(note_restore(cluster))
        await cluster.engine.load_proven_resources()
        async with background(brake.pull) as begin:
            begin("the write observer", self.observer.run)
            await acceptance.accept(history)
            self._context.accepted()
            await leader.figures.show_records()
            begin("the key monitor", self.key_monitor.run)
            begin("the rotation controller", self._rotation.run)
            begin("the full check controller", self.full_check.run)
            begin("housekeeping", self._housekeeping.run)
            begin("the observer's lag", self._show_lag)
            # Awaited here, not cancelled: it stops between two steps, and releases the lock on campaigns.
            await self._campaigns.run()

    async def _show_lag(self) -> None:
        while True:
            self._context.state.metrics.lags(self.observer.lag)
            await asyncio.sleep(_LAG_SECONDS)

    def drifted(self, resource: str, namespace: str) -> None:
        """Count a write under another key than the primary; housekeeping requests its repair."""
        self._context.state.drift.add(resource, namespace)
        self._context.state.metrics.drifted()

    def _key_monitor(self) -> KeyMonitor:
        leader, state, engine = self.leader, self._context.state, self.leader.cluster.engine
        meter = Meter(Usages(engine.store, engine.keyspace, [self._context.guard]), leader.campaigns, self.observer)
        return KeyMonitor(leader.settings.budget, leader.cluster, meter, state.metrics, state.alerts)

    def _rotation_controller(self) -> RotationController:
        leader, context, cluster = self.leader, self._context, self.leader.cluster
        rotations = Rotations(cluster.engine.store, cluster.engine.keyspace, [context.guard])
        probe = LeaderProbe(cluster, context.apiservers, context.brake, leader.campaigns, leader.backlog)
        driver = RotationDriver(rotations, context.file, probe, cluster.audit, cluster.engine.ledger)
        preparation = Preparation(leader.settings.space, cluster, context.apiservers, context.file)
        return RotationController(leader.settings, cluster, preparation, driver)
