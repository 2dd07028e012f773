"""When drift is repaired: soon at first, then later and later while it goes on. Values only: no I/O, no clock.

1. The first repair of a place, a namespace of a resource, is asked for at once.
2. After each repair the place is left for a while; what drifts there meanwhile waits for the next one. The
   while begins at FIRST_PAUSE and doubles up to LONGEST_PAUSE.
3. When LONGEST_PAUSE has passed beyond it without a repair, the next one is the first again.
4. A resource that had MOST_REPAIRS repairs within the last LONGEST_PAUSE counts as one place from there on: a
   writer that drifts in ever other namespaces is collected like one that stays.

So a writer that never stops costs some repairs an hour and resource, however fast it writes; and the audit log
gets a sum of them once an hour (`Repaired`), which pushes nothing out of it that an operator did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import is_namespace

FIRST_PAUSE = 15.0
LONGEST_PAUSE = 3_600.0
MOST_REPAIRS = 10

MOST_PLACES = 10
"""Namespaces of a resource that one repair names; of more, a campaign over the resource is sooner done."""

EVERYWHERE = ""
"""The place that is a whole resource: also for cluster scope, and for what is no namespace's name."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair that was asked for: when (seconds since 1970), and of what; no namespaces = all of the resource."""

    at: float
    resource: str
    namespaces: tuple[str, ...] = ()


class Drift:
    """The places where something drifted and that no repair was asked for yet. Its size is bounded by the resources."""

    def __init__(self) -> None:
        self._places: dict[str, set[str]] = {}

    def add(self, resource: str, namespace: str) -> None:
        """Note a place. Anybody who can write to etcd chooses the name: what is none stands for the resource."""
        places = self._places.setdefault(resource, set())
        places.add(namespace if is_namespace(namespace) else EVERYWHERE)
        if EVERYWHERE in places or len(places) > MOST_PLACES:
            self._places[resource] = {EVERYWHERE}

    def due(self, history: Sequence[Repair], now: float) -> list[Repair]:
        """Return the repairs to ask for now, one a resource; their places are no longer waited for."""
        found = []
        for resource, places in sorted(self._places.items()):
            ripe = {place for place in places if due_at(history, resource, place, now) <= now}
            if ripe:
                self._places[resource] = places - ripe
                found.append(Repair(now, resource, tuple(sorted(ripe - {EVERYWHERE}))))
        self._places = {resource: left for resource, left in self._places.items() if left}
        return found


def due_at(history: Iterable[Repair], resource: str, place: str, now: float) -> float:
    """Return when the next repair of a place may be asked for; 0 = it may at any time.

    What is yet to come, by a clock that another leader had, does not count.
    """
    mine = [one for one in history if one.resource == resource and one.at <= now]
    often = sum(now - one.at < LONGEST_PAUSE for one in mine) >= MOST_REPAIRS
    covering = [one.at for one in mine if often or not one.namespaces or place in one.namespaces]
    return _after(sorted(covering))


def _after(times: Iterable[float]) -> float:
    """Return when a place may be repaired again that was repaired at these times, the oldest first."""
    before, pause = float("-inf"), FIRST_PAUSE
    for at in times:
        is_calm = at - before > pause + LONGEST_PAUSE
        pause = FIRST_PAUSE if is_calm else min(LONGEST_PAUSE, 2 * pause)
        before = at
    return before + pause


@dataclass(slots=True)
class Repaired:
    """What repairs came to since the audit log was last told, and when that was (seconds since 1970, 0 = never)."""

    campaigns: int = 0
    incomplete: int = 0
    rewritten: int = 0
    resources: set[str] = field(default_factory=set)
    told_at: float = 0.0

    def add(self, campaign: Campaign, report: BatchReport) -> None:
        """Count one more repair, which has ended."""
        self.campaigns += 1
        self.incomplete += campaign.state is not CampaignState.COMPLETE
        self.rewritten += report.rewritten
        self.resources |= set(campaign.scope.resources)

    def to_tell(self, now: float) -> dict[str, int | str] | None:
        """Return the details of an entry of the audit log, None while there is nothing to tell, or it is too soon."""
        if not self.campaigns or 0 <= now - self.told_at < LONGEST_PAUSE:
            return None
        return {
            "campaigns": self.campaigns,
            "incomplete": self.incomplete,
            "rewritten": self.rewritten,
            "resources": ", ".join(sorted(self.resources)),
        }

    def tell(self, now: float) -> None:
        """Begin anew: it was told."""
        self.campaigns = self.incomplete = self.rewritten = 0
        self.resources, self.told_at = set(), now
