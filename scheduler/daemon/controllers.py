"""The controllers of a leader under one generation of the configuration, each a task of its own under one lease.

- the write observer watches every governed write, from before the generation is accepted on;
- rotation says how worn keys are, and drives the rotation;
- campaigns works on campaigns and requests;
- resync compares everything with the configuration now and then;
- housekeeping asks for repairs of drift, and forgets old records.

Each reads records, decides by a pure function, acts, and says why. The first that fails ends all of them, and its
error is raised: the daemon then gives up leadership and begins again with what is on record.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import Converged
from kube_rewrap.scheduler.campaigns.controller import CampaignController, Office
from kube_rewrap.scheduler.campaigns.figures import Figures
from kube_rewrap.scheduler.campaigns.housekeeping import Housekeeping
from kube_rewrap.scheduler.campaigns.repairs import Drift
from kube_rewrap.scheduler.campaigns.requests import Inbox
from kube_rewrap.scheduler.campaigns.resync import ResyncController, Schedule
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.daemon.acceptance import Acceptance
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.scheduler.keys.meter import Meter
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.rotation.controller import Hands, Keeper, Outlets
from kube_rewrap.scheduler.rotation.driver import Books, ConfigurationFile, Rotator
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.probes import ClusterSenses, leaders_campaigner
from kube_rewrap.worker.background import background
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.usages import Usages

_LAG_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Term:
    """What a leader has while it leads: its fencing token, a brake that ends its controllers, and what outlives them.

    `before` is the hash of the generation that it followed until a moment ago, "" at first. `file` and `converged` are
    what a rotation needs.
    """

    guard: Expect
    brake: Brake
    outlets: Outlets
    file: ConfigurationFile
    converged: Converged
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
            figures=Figures(service, term.guard, term.outlets.metrics),
            schedule=Schedule(settings.service.resync),
        )
        self._drift = Drift()
        repaired = term.outlets.repaired
        self.observer = Observer(service, term.guard, Listeners(self.drifted, office.schedule.soon))
        self.rotation = self._rotation()
        self._campaigns = CampaignController(office, term.brake, sender, term.converged, repaired)
        self.resync = ResyncController(service, office.campaigns, office.inbox, office.figures, office.schedule)
        self._housekeeping = Housekeeping(office.inbox, office.figures, self._drift, repaired, service.audit)

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
            await office.figures.show_records()
            begin("the rotation controller", self.rotation.run)
            begin("the resync controller", self.resync.run)
            begin("housekeeping", self._housekeeping.run)
            begin("the lag of the observer", self._show_lag)
            # Not cancelled: it stops between two steps, so that it gives the lock on campaigns back.
            await self._campaigns.run()

    async def _show_lag(self) -> None:
        while True:
            self._term.outlets.metrics.lags(self.observer.lag)
            await asyncio.sleep(_LAG_SECONDS)

    def drifted(self, resource: str, namespace: str) -> None:
        """Note that something was written under another key than the primary."""
        self._drift.add(resource, namespace)
        self._term.outlets.metrics.drifted()

    def _rotation(self) -> Keeper:
        office, term = self.office, self._term
        engine, service = office.service.engine, office.service
        rotations = Rotations(engine.store, engine.keyspace, [term.guard])
        campaigner = leaders_campaigner(office.campaigns, office.inbox)
        senses = ClusterSenses(service, self.converged, campaigner, term.brake)
        rotator = Rotator(rotations, term.file, senses, Books(service.audit, engine.ledger))
        meter = Meter(Usages(engine.store, engine.keyspace, [term.guard]), office.campaigns, self.observer)
        preparation = Preparation(office.settings, service, rotations, term.converged, term.file)
        return Keeper(office.settings, service, Hands(meter, preparation, rotator), term.outlets)

    async def converged(self, generation: str) -> tuple[bool, str]:
        """Ask for a rotation, and tell the inbox, where a request may wait for the same."""
        is_so, because = await self._term.converged(generation)
        if is_so and generation == self.office.service.generation.hash:
            self.office.inbox.converged()
        return is_so, because
