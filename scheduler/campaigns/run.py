"""A run as values: what it covers, its plan before the first write, and its result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.config.errors import ConfigError, Fault, SettingsError
from kube_rewrap.scheduler.campaigns.discovery import Territory
from kube_rewrap.scheduler.campaigns.plugin_calls import PluginCalls
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.campaign import NO_OPTIONS, Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.inventory import Estimate, Inventory, ResourceRange
from kube_rewrap.worker.records.quarantined import Quarantined
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import is_namespace
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Reason


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """What a campaign is to cover, and its options.

    Empty `resources` means all that the configuration governs, empty `namespaces` all.

    `wait`: wait while another process works on campaigns, rather than refuse.
    """

    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    options: CampaignOptions = NO_OPTIONS
    wait: bool = False

    @property
    def covers_everything(self) -> bool:
        """Whether the campaign covers all that the configuration governs."""
        return not self.resources and not self.namespaces


EVERYTHING = CampaignSpec()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would do, as found before its first write.

    `found` covers the scope only, `estimate` all that is governed; it is None if every key's use is known. `growth` is
    by how many bytes a KMS primary makes the objects larger, in all; `room` takes it into account. The revision `since`
    of `options` is that of `resumes`, the unfinished campaign that the run would resume, or the one that was asked for.
    `calls`: the least calls to the plugins of KMS v1 providers. `warnings`: the dangerous changes of the configuration
    since a scheduler accepted one, and proofs that may take too long, in sentences.
    """

    scope: Scope
    options: CampaignOptions
    territory: Territory
    found: Inventory
    room: Room
    estimate: Estimate | None
    refusals: tuple[RefusedError, ...]
    resumes: Stored[Campaign] | None
    growth: int = 0
    calls: tuple[PluginCalls, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the scope covers all that is governed now."""
        governed = {one.resource for one in self.territory.governed}
        return not self.scope.namespaces and governed <= set(self.scope.resources)

    def require_safe(self) -> None:
        """Raise the reason not to start: the one refusal, or one error with all of them."""
        if len(self.refusals) == 1:
            raise self.refusals[0]
        if self.refusals:
            raise RefusedError("; ".join(map(str, self.refusals)))


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended: the campaign's record, its counts, its quarantine and the proof's inventory.

    `report` is of the whole campaign; `rewritten_now` is this run's part of it, done in `seconds`. `quarantined` names
    some of the quarantined objects, `quarantined_by` counts all by resource and reason.
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
        """Quarantined objects, named or not. A complete campaign has none by its proof."""
        return 0 if self.campaign.state is CampaignState.COMPLETE else self.report.quarantined


def choose(territory: Territory, spec: CampaignSpec) -> tuple[ResourceRange, ...]:
    """Return the ranges that a campaign covers.

    Raises SettingsError for a resource that the configuration does not govern, and for a text that can't name a
    namespace.
    """
    governed = {one.resource: one for one in territory.governed}
    unknown = [name for name in spec.resources if name not in governed]
    if unknown:
        idle = {name: (f"{name} governs nothing: {because}", remedy) for name, because, remedy in territory.idle}
        ungoverned = (f"{', '.join(unknown)} is not governed by the configuration", _names(governed))
        fault = Fault("--resource", *next((idle[name] for name in unknown if name in idle), ungoverned))
        raise SettingsError("command line", (fault,))
    if not all(map(is_namespace, spec.namespaces)):
        fault = Fault("--namespace", "is not a namespace's name", "give one name such as kube-system")
        raise SettingsError("command line", (fault,))
    chosen = [one for name, one in governed.items() if not spec.resources or name in spec.resources]
    if not spec.namespaces:
        return tuple(chosen)
    inner = [namespace.encode() + b"/" for namespace in sorted(set(spec.namespaces))]
    return tuple(replace(one, range=KeyRange.of_prefix(one.range.start + name)) for one in chosen for name in inner)


def still_there(territory: Territory, spec: CampaignSpec) -> tuple[ResourceRange, ...]:
    """Return the ranges that a campaign covers, without resources whose last object is gone.

    If that leaves none of the named resources, returns no range, never all.
    """
    governed = {one.resource for one in territory.governed}
    left = tuple(name for name in spec.resources if name in governed)
    return () if spec.resources and not left else choose(territory, replace(spec, resources=left))


def uncovered(territory: Territory, chosen: Sequence[ResourceRange]) -> tuple[ResourceRange, ...]:
    """Return the governed ranges without the chosen ones, which do not overlap."""
    left: list[ResourceRange] = []
    for one in territory.governed:
        rest = one.range
        for inner in sorted(
            (part.range for part in chosen if part.resource == one.resource), key=lambda part: part.start
        ):
            left.append(ResourceRange(one.resource, KeyRange(rest.start, inner.start)))
            rest = rest.since(inner.end)
        left.append(ResourceRange(one.resource, rest))
    return tuple(part for part in left if not part.range.is_empty)


def scope_of(territory: Territory, spec: CampaignSpec) -> Scope:
    """Return the campaign's scope in this registry. Raises SettingsError, as `choose` does."""
    resources = dict.fromkeys(one.resource for one in choose(territory, spec))
    return Scope(tuple(resources), tuple(sorted(set(spec.namespaces))))


def spec_of(campaign: Campaign) -> CampaignSpec:
    """Return what a recorded campaign has to prove; everything includes unknown paths and later resources."""
    spec = EVERYTHING if campaign.whole else CampaignSpec(campaign.scope.resources, campaign.scope.namespaces)
    return replace(spec, options=campaign.options)


def require_objects(names: Iterable[str], option: str) -> None:
    """Raise SettingsError if a named resource or namespace holds no object: it was most likely mistyped."""
    empty = ", ".join(names)
    if empty:
        message = f"{empty}: no object is there, so a scan would prove nothing about it"
        remedy = "if no object is expected, give --allow-empty (allow_empty in a request)"
        raise SettingsError("command line", (Fault(option, message, remedy),))


_FIELDS = {"--resource": "resources", "--namespace": "namespaces"}


def faults_by_field(error: ConfigError) -> str:
    """Return the faults of a request for its sender, with field names in place of flags."""
    return "; ".join(str(replace(fault, path=_FIELDS.get(fault.path, fault.path))) for fault in error.faults)


def _names(governed: Mapping[str, ResourceRange]) -> str:
    return f"it governs {', '.join(governed) or 'nothing'}"


def resumable(
    unfinished: Iterable[Stored[Campaign]], generation: str, scope: Scope, since: int
) -> Stored[Campaign] | None:
    """Return the unfinished campaign of the same generation and scope, None if there is none.

    With a revision `since`, as in `CampaignOptions`, only one that has the same; without one, any: a campaign that
    rewrites current objects, too, does all that is asked for.
    """
    same = (one for one in unfinished if one.value.generation == generation and one.value.scope == scope)
    return next((one for one in same if since in {0, one.value.options.since}), None)
