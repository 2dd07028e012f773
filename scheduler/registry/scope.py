"""Which governed ranges a campaign covers, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from kube_rewrap.config.errors import ConfigError, Fault, SettingsError
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.campaign import NO_OPTIONS, Campaign, CampaignOptions, Scope
from kube_rewrap.worker.records.inventory import ResourceRange
from kube_rewrap.worker.records.request import is_namespace


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """What a campaign is to cover, and its options.

    Empty `resources` means all that the configuration governs, empty `namespaces` all.
    """

    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    options: CampaignOptions = NO_OPTIONS

    @property
    def covers_everything(self) -> bool:
        """Whether the campaign covers all that the configuration governs."""
        return not self.resources and not self.namespaces


EVERYTHING = CampaignSpec()


def choose(territory: Territory, spec: CampaignSpec) -> tuple[ResourceRange, ...]:
    """Return the ranges that a campaign covers.

    Raises SettingsError for a resource that the configuration does not govern, and for a text that can't name a
    namespace.
    """
    governed = {one.resource: one for one in territory.governed}
    unknown = [name for name in spec.resources if name not in governed]
    if unknown:
        idle = {name: (f"{name} governs nothing: {because}", remedy) for name, because, remedy in territory.idle}
        near = get_close_matches(unknown[0], governed, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        ungoverned = (f"{', '.join(unknown)} is not governed by the configuration{guess}", _names(governed))
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
            left.append(replace(one, range=KeyRange(rest.start, inner.start)))
            rest = rest.since(inner.end)
        left.append(replace(one, range=rest))
    return tuple(part for part in left if not part.range.is_empty)


def scope_of(territory: Territory, spec: CampaignSpec) -> Scope:
    """Return the campaign's scope in this registry. Raises SettingsError, as `choose` does."""
    resources = dict.fromkeys(one.resource for one in choose(territory, spec))
    return Scope(tuple(resources), tuple(sorted(set(spec.namespaces))))


def spec_of(campaign: Campaign) -> CampaignSpec:
    """Return what a recorded campaign has to prove; everything includes unknown paths and later resources."""
    spec = EVERYTHING if campaign.whole else CampaignSpec(campaign.scope.resources, campaign.scope.namespaces)
    return replace(spec, options=campaign.options)


_FIELDS = {"--resource": "resources", "--namespace": "namespaces"}


def faults_by_field(error: ConfigError) -> str:
    """Return the faults of a request for its sender, with field names in place of flags."""
    return "; ".join(str(replace(fault, path=_FIELDS.get(fault.path, fault.path))) for fault in error.faults)


def _names(governed: Mapping[str, ResourceRange]) -> str:
    return f"it governs {', '.join(governed) or 'nothing'}"
