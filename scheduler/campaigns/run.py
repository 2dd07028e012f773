"""A run as values: what the operator orders, what was looked at before the first write, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kube_rewrap.config.errors import ConfigError, Fault, SettingsError
from kube_rewrap.scheduler.campaigns.discovery import Territory
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.campaign import NO_OPTIONS, Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.inventory import Inventory, Look, ResourceRange
from kube_rewrap.worker.records.ownership import Session
from kube_rewrap.worker.records.quarantined import Quarantined
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import is_namespace
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Reason


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be rewrapped. Empty `resources` means all that the configuration governs, empty `namespaces` all.

    `wait`: for another process that works on campaigns, rather than refusing.
    """

    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    options: CampaignOptions = NO_OPTIONS
    wait: bool = False

    @property
    def covers_everything(self) -> bool:
        """Whether nothing that the configuration governs is left out."""
        return not self.resources and not self.namespaces


EVERYTHING = Order()


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock on campaigns while it is held. After waiting for it, a plan from before is out of date."""

    session: Session
    guard: Expect
    waited: bool


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would do: everything that was looked at before the first write.

    `found` covers the scope only, `look` all that is governed; None where no key's use is unknown. `resumes` is the
    unfinished campaign that it would go on with.
    """

    scope: Scope
    territory: Territory
    found: Inventory
    room: Room
    look: Look | None
    refusals: tuple[RefusedError, ...]
    resumes: Stored[Campaign] | None

    @property
    def is_whole(self) -> bool:
        """Whether it leaves nothing out that is governed now."""
        governed = {one.resource for one in self.territory.governed}
        return not self.scope.namespaces and governed <= set(self.scope.resources)

    def require_safe(self) -> None:
        """Raise what speaks against starting: the one refusal, or all of them in one."""
        if len(self.refusals) == 1:
            raise self.refusals[0]
        if self.refusals:
            raise RefusedError("; ".join(map(str, self.refusals)))


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: the campaign's record, its counts, its quarantine and the proof's inventory.

    `report` is of the whole campaign; `rewritten_now` is this run's part of it, done in `seconds`. `quarantined`
    names some of those in quarantine, `quarantined_by` counts all by resource and reason.
    """

    campaign: Campaign
    report: BatchReport
    rewritten_now: int
    quarantined: tuple[Quarantined, ...]
    quarantined_by: Mapping[tuple[str, Reason], int]
    proof: Inventory
    seconds: float

    @property
    def quarantined_total(self) -> int:
        """Objects in quarantine, whether or not they are named. A complete campaign has none by its proof."""
        return 0 if self.campaign.state is CampaignState.COMPLETE else self.report.quarantined


def choose(territory: Territory, order: Order) -> tuple[ResourceRange, ...]:
    """Return the ranges that an order is about. Raises SettingsError for a resource that nothing governs."""
    governed = {one.resource: one for one in territory.governed}
    unknown = [name for name in order.resources if name not in governed]
    if unknown:
        idle = {name: (f"{name} governs nothing: {because}", remedy) for name, because, remedy in territory.idle}
        told = (f"{', '.join(unknown)} is not governed by the configuration", _names(governed))
        fault = Fault("--resource", *next((idle[name] for name in unknown if name in idle), told))
        raise SettingsError("command line", (fault,))
    if not all(map(is_namespace, order.namespaces)):
        fault = Fault("--namespace", "is not a namespace's name", "give one name such as kube-system")
        raise SettingsError("command line", (fault,))
    chosen = [one for name, one in governed.items() if not order.resources or name in order.resources]
    if not order.namespaces:
        return tuple(chosen)
    inner = [namespace.encode() + b"/" for namespace in sorted(set(order.namespaces))]
    return tuple(replace(one, range=KeyRange.of_prefix(one.range.start + name)) for one in chosen for name in inner)


def still_there(territory: Territory, order: Order) -> tuple[ResourceRange, ...]:
    """Return the ranges that an order is about, without resources of which the last object is gone.

    When that is all of them, it is about nothing; never about everything.
    """
    governed = {one.resource for one in territory.governed}
    left = tuple(name for name in order.resources if name in governed)
    return () if order.resources and not left else choose(territory, replace(order, resources=left))


def scope_of(territory: Territory, order: Order) -> Scope:
    """Return what an order covers in this registry. Raises SettingsError, as `choose` does."""
    resources = dict.fromkeys(one.resource for one in choose(territory, order))
    return Scope(tuple(resources), tuple(sorted(set(order.namespaces))))


def order_of(campaign: Campaign) -> Order:
    """Return what a campaign has to prove: one of everything, also what nobody knows and what came after its plan."""
    return EVERYTHING if campaign.whole else Order(campaign.scope.resources, campaign.scope.namespaces)


def require_objects(names: Iterable[str], option: str) -> None:
    """Raise SettingsError for what was named and holds no object: most likely a name that was mistyped."""
    empty = ", ".join(names)
    if empty:
        message = f"{empty}: no object is there, so nothing would be proven about it"
        remedy = "if that is meant, say --allow-empty (allow_empty in a message)"
        raise SettingsError("command line", (Fault(option, message, remedy),))


_FIELDS = {"--resource": "resources", "--namespace": "namespaces"}


def told_in_fields(error: ConfigError) -> str:
    """Return what is wrong with an order to whoever gave it as a request: that has fields where a command has flags."""
    return "; ".join(str(replace(fault, path=_FIELDS.get(fault.path, fault.path))) for fault in error.faults)


def _names(governed: Mapping[str, ResourceRange]) -> str:
    return f"it governs {', '.join(governed) or 'nothing'}"


def resumable(unfinished: Iterable[Stored[Campaign]], generation: str, scope: Scope) -> Stored[Campaign] | None:
    """Return the unfinished campaign that is about the same work."""
    same = (one for one in unfinished if one.value.generation == generation and one.value.scope == scope)
    return next(same, None)
