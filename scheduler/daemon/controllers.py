"""The controllers of a leader under one generation of the configuration, each a task of its own under one lease.

- the write observer watches every governed write, from before the generation is accepted on;
- the key monitor measures the use of write budgets, and logs keys that are due;
- the rotation controller begins a rotation of a due key, and takes the steps of the unfinished one;
- campaigns works on campaigns and requests;
- resync compares everything with the configuration now and then;
- housekeeping asks for repairs of drift, and forgets old records.

Each reads records, decides by a pure function, acts, and says why. The first that fails ends all of them, and its
error is raised: the daemon then gives up leadership and begins again with what is on record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ConvergenceProbe
from kube_rewrap.scheduler.campaigns.controller import CampaignController, Office
from kube_rewrap.scheduler.campaigns.figures import Figures
from kube_rewrap.scheduler.campaigns.housekeeping import Housekeeping
from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH
from kube_rewrap.scheduler.campaigns.repairs import Drift, Repaired
from kube_rewrap.scheduler.campaigns.requests import Inbox
from kube_rewrap.scheduler.campaigns.resync import ResyncController, Schedule
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.daemon.acceptance import Acceptance
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.scheduler.keys.alerts import LoggedAlert
from kube_rewrap.scheduler.keys.meter import Meter
from kube_rewrap.scheduler.keys.monitor import KeyMonitor
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.controller import RotationController
from kube_rewrap.scheduler.rotation.driver import RotationDriver
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.probes import LeaderProbe
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
class Kept:
    """Metrics, the last alert logged for each key, and the repairs of drift; kept when a new generation is followed."""

    metrics: SchedulerMetrics
    alerts: dict[str, LoggedAlert] = field(default_factory=dict)
    repaired: Repaired = field(default_factory=Repaired)


@dataclass(frozen=True, slots=True)
class Term:
    """What the controllers of one generation get from the leader: its fencing token, and a brake that ends them.

    `accepted` is called when the generation is in force. `before` is the hash of the last generation that this leader
    accepted, "" at first.
    """

    guard: Expect
    brake: Brake
    kept: Kept
    file: ConfigurationFile
    apiservers: ConvergenceProbe
    accepted: Callable[[], None]
    before: str = ""


class Controllers:
    """See the module's docstring."""

    def __init__(self, settings: Settings, service: Service, sender: Sender, term: Term) -> None:
        self._term = term
        store, keyspace = service.engine.store, service.engine.keyspace
        self.office = office = Office(
            settings=settings,
            service=service,
            guard=term.guard,
            campaigns=Campaigns(store, keyspace, [term.guard]),
            inbox=Inbox(Requests(store, keyspace, [term.guard]), service.audit),
            figures=Figures(service, term.guard, term.kept.metrics),
            schedule=Schedule(settings.service.resync),
        )
        self._drift = Drift()
        repaired = term.kept.repaired
        self.observer = Observer(service, term.guard, Listeners(self.drifted, office.schedule.soon))
        self.key_monitor = self._key_monitor()
        self._rotation = self._rotation_controller()
        self._campaigns = CampaignController(office, term.brake, sender, term.apiservers, repaired)
        self.resync = ResyncController(service, office.campaigns, office.inbox, office.figures, office.schedule)
        tries = TryCounter(store, keyspace, MOST_FRESH, [term.guard])
        self._housekeeping = Housekeeping(
            office.inbox, office.figures, self._drift, repaired, audit=service.audit, tries=tries
        )

    async def run(self) -> None:
        """Work until the brake is pulled; raises its reason, or what makes going on impossible."""
        office, service, brake = self.office, self.office.service, self._term.brake
        acceptance = Acceptance(office, describe(service.generation), self._term.before)
        history = await acceptance.current()
        await brake.unless_pulled(service.note_restore())
        await service.engine.learn_what_is_complete()
        async with background(brake.pull) as begin:
            begin("the write observer", self.observer.run)
            await acceptance.accept(history)
            self._term.accepted()
            await office.figures.show_records()
            begin("the key monitor", self.key_monitor.run)
            begin("the rotation controller", self._rotation.run)
            begin("the resync controller", self.resync.run)
            begin("housekeeping", self._housekeeping.run)
            begin("the lag of the observer", self._show_lag)
            # Not cancelled: it stops between two steps, so that it gives the lock on campaigns back.
            await self._campaigns.run()

    async def _show_lag(self) -> None:
        while True:
            self._term.kept.metrics.lags(self.observer.lag)
            await asyncio.sleep(_LAG_SECONDS)

    def drifted(self, resource: str, namespace: str) -> None:
        """Note that something was written under another key than the primary."""
        self._drift.add(resource, namespace)
        self._term.kept.metrics.drifted()

    def _key_monitor(self) -> KeyMonitor:
        office, kept, engine = self.office, self._term.kept, self.office.service.engine
        meter = Meter(Usages(engine.store, engine.keyspace, [self._term.guard]), office.campaigns, self.observer)
        return KeyMonitor(office.settings.budget, office.service, meter, kept.metrics, kept.alerts)

    def _rotation_controller(self) -> RotationController:
        office, term, service = self.office, self._term, self.office.service
        rotations = Rotations(service.engine.store, service.engine.keyspace, [term.guard])
        probe = LeaderProbe(service, term.apiservers, term.brake, office.campaigns, office.inbox)
        driver = RotationDriver(rotations, term.file, probe, service.audit, service.engine.ledger)
        preparation = Preparation(office.settings.space, service, term.apiservers, term.file)
        return RotationController(office.settings, service, preparation, driver)
