"""When drift is repaired: soon at first, then with growing pauses while it lasts. Values only: no I/O, no clock.

1. The first repair of a place, a namespace of a resource, is requested at once.
2. After each repair the place pauses; its drift meanwhile waits for the next repair. The pause begins at FIRST_PAUSE
   and doubles up to LONGEST_PAUSE.
3. When LONGEST_PAUSE has passed after the pause without a repair, the next repair is a first one again.
4. A resource that had MOST_REPAIRS repairs within the last LONGEST_PAUSE counts as one place: a writer that moves
   through namespaces costs no more than one that stays.

So a writer that never stops costs some repairs an hour and resource, however fast it writes. The audit log gets a sum
of them once an hour (`Repaired`), so that they displace no entry of an operator's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import is_namespace

FIRST_PAUSE = 15.0
LONGEST_PAUSE = 3_600.0
MOST_REPAIRS = 10

MOST_PLACES = 10
"""Most namespaces of a resource that one repair names; beyond that, a campaign over the resource is faster."""

EVERYWHERE = ""
"""The place of a whole resource: also of cluster scope, and of texts that can't name a namespace."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A requested repair: when (seconds since 1970), and of what; no namespaces = the whole resource."""

    at: float
    resource: str
    namespaces: tuple[str, ...] = ()


class Drift:
    """Places with drift for which no repair was requested yet: at most `MOST_PLACES` a resource."""

    def __init__(self) -> None:
        self._places: dict[str, set[str]] = {}

    def add(self, resource: str, namespace: str) -> None:
        """Add a place. An etcd writer may choose any text: one that can't name a namespace means the resource."""
        places = self._places.setdefault(resource, set())
        places.add(namespace if is_namespace(namespace) else EVERYWHERE)
        if EVERYWHERE in places or len(places) > MOST_PLACES:
            self._places[resource] = {EVERYWHERE}

    def keep(self, is_governed: Callable[[str], bool]) -> None:
        """Forget the places of resources that the configuration does not govern any more."""
        self._places = {resource: places for resource, places in self._places.items() if is_governed(resource)}

    def due(self, history: Sequence[Repair], now: float) -> list[Repair]:
        """Return the repairs to request now, one a resource, and forget their places."""
        found = []
        for resource, places in sorted(self._places.items()):
            ripe = {place for place in places if due_at(history, resource, place, now) <= now}
            if ripe:
                self._places[resource] = places - ripe
                found.append(Repair(now, resource, tuple(sorted(ripe - {EVERYWHERE}))))
        self._places = {resource: left for resource, left in self._places.items() if left}
        return found


def due_at(history: Iterable[Repair], resource: str, place: str, now: float) -> float:
    """Return when the next repair of a place may be requested; minus infinity for a place without one.

    Repairs in the future, by the clock of another leader, do not count.
    """
    mine = [one for one in history if one.resource == resource and one.at <= now]
    often = sum(now - one.at < LONGEST_PAUSE for one in mine) >= MOST_REPAIRS
    covering = [one.at for one in mine if often or not one.namespaces or place in one.namespaces]
    return _after(sorted(covering))


def _after(times: Iterable[float]) -> float:
    """Return when a place that was repaired at these times, the oldest first, may be repaired again."""
    before, pause = float("-inf"), FIRST_PAUSE
    for at in times:
        is_calm = at - before > pause + LONGEST_PAUSE
        pause = FIRST_PAUSE if is_calm else min(LONGEST_PAUSE, 2 * pause)
        before = at
    return before + pause


@dataclass(slots=True)
class Repaired:
    """Sums of repairs since the audit log's last entry of them, and its time (seconds since 1970, 0 = none)."""

    campaigns: int = 0
    incomplete: int = 0
    rewritten: int = 0
    resources: set[str] = field(default_factory=set)
    summed_at: float = 0.0

    def add(self, campaign: Campaign, report: BatchReport) -> None:
        """Count one repair that has ended."""
        self.campaigns += 1
        self.incomplete += campaign.state is not CampaignState.COMPLETE
        self.rewritten += report.rewritten
        self.resources |= set(campaign.scope.resources)

    def summary(self, now: float) -> dict[str, int | str] | None:
        """Return the details of the next entry; None without a repair, or within LONGEST_PAUSE of the last entry."""
        if not self.campaigns or 0 <= now - self.summed_at < LONGEST_PAUSE:
            return None
        return {
            "campaigns": self.campaigns,
            "incomplete": self.incomplete,
            "rewritten": self.rewritten,
            "resources": ", ".join(sorted(self.resources)),
        }

    def reset(self, now: float) -> None:
        """Reset the sums after an entry in the audit log."""
        self.campaigns = self.incomplete = self.rewritten = 0
        self.resources, self.summed_at = set(), now
