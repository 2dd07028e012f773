"""A run as values: its plan before the first write, and its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kube_rewrap.scheduler.campaigns.plugin_calls import PluginCalls
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.inventory import Estimate, Inventory
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Reason


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would do, as found before its first write.

    `found` covers the scope only, `estimate` all that is governed; it is None if every key's use is known. `growth` is
    by how many bytes a KMS primary makes the objects larger, in all; `room` takes it into account. The revision `since`
    of `options` is that of `resumes`, the unfinished campaign that the run would resume, or the one that was asked for.
    `calls`: the least calls to the plugins of KMS v1 providers. `warnings`: the dangerous changes of the configuration
    since a scheduler accepted one, and proofs that may take too long, in sentences. `convergence` is what was found of
    the kube-apiservers before the plan, "" = nothing was asked.
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
    convergence: str = ""

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
    quarantined: tuple[QuarantinedObject, ...]
    quarantined_by: Mapping[tuple[str, Reason], int]
    proof: Inventory
    seconds: float

    @property
    def is_resumed(self) -> bool:
        """Whether runs before this one rewrote objects for the campaign."""
        return self.rewritten_now != self.report.rewritten

    @property
    def quarantined_total(self) -> int:
        """Quarantined objects, named or not. A complete campaign has none by its proof."""
        return 0 if self.campaign.state is CampaignState.COMPLETE else self.report.quarantined


def resumable(
    unfinished: Iterable[Stored[Campaign]], generation: str, scope: Scope, since: int
) -> Stored[Campaign] | None:
    """Return the unfinished campaign of the same generation and scope, None if there is none.

    With a revision `since`, as in `CampaignOptions`, only one that has the same; without one, any: a campaign that
    rewrites current objects, too, does all that is asked for.
    """
    same = (one for one in unfinished if one.value.generation == generation and one.value.scope == scope)
    return next((one for one in same if since in {0, one.value.options.since}), None)
