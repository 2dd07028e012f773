"""Back-pressure: etcd's latency sizes the window of swaps; its database size and alarms stop all writes. Pure.

The window grows while the mean latency of swaps stays within `_TOLERANCE` times the baseline, or below
`_CALM_SECONDS`, a latency that does not harm a control plane; above that it shrinks in proportion. It grows beyond
its first size, too: etcd commits in groups, so a larger window raises the throughput on a slow disk considerably.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kube_rewrap.config.settings.schema import SpaceSettings
from kube_rewrap.worker.etcd.store import MemberStatus

DEFAULT_QUOTA = 2 * 2**30
"""etcd's default of --quota-backend-bytes."""

_CALM_SECONDS = 0.08
_TOLERANCE = 3.0
_DRIFT = 1.01
_GROWTH = 1.25
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class WindowSize:
    """How many swaps may be in flight: `limit`, at most `ceiling`.

    `baseline` is the mean latency of the best round in seconds, 0 before the first round. It rises by 1 % per round
    at most, so that the window grows again in a cluster that has become slower for good.
    """

    limit: float = 32.0
    ceiling: int = 256
    baseline: float = 0.0

    def after_round(self, latency: float, *, was_full: bool) -> WindowSize:
        """Return the window after a round of swaps with this mean latency in seconds.

        `was_full`: the swaps used the whole window. Otherwise another limit held, such as the rate ceiling, and the
        window does not grow.
        """
        baseline = min(latency, self.baseline * _DRIFT) if self.baseline else latency
        calm = max(_CALM_SECONDS, _TOLERANCE * baseline)
        if latency > calm:
            limit = max(1.0, self.limit * max(0.5, calm / latency))
        elif was_full:
            limit = min(float(self.ceiling), self.limit * _GROWTH)
        else:
            limit = self.limit
        return replace(self, limit=limit, baseline=baseline)


@dataclass(frozen=True, slots=True)
class Room:
    """The fullest member's projected database size and its quota, in bytes. `refusal`: why to stop, None = continue."""

    projected: int
    quota: int
    refusal: str | None


def judge_space(members: Iterable[MemberStatus], alarms: Iterable[str], to_write: int, settings: SpaceSettings) -> Room:
    """Judge whether `to_write` more bytes fit below the stop mark (`stop_at` of the quota) of the fullest member.

    etcd keeps the old copy of each rewritten object until compaction. It uses free pages inside the file first, so
    the file grows to the larger of its present size and the bytes that will be in use.
    """
    raised = [alarm for alarm in alarms if alarm != "NONE"]
    worst = Room(0, 0, None)
    for member in members:
        quota = settings.quota_bytes or member.quota or DEFAULT_QUOTA
        projected = max(member.db_size, member.db_size_in_use + to_write)
        if worst.quota == 0 or projected / quota > worst.projected / worst.quota:
            worst = Room(projected, quota, None)
    if "CORRUPT" in raised:
        return replace(worst, refusal=f"etcd raised the alarm CORRUPT: {_CORRUPT}")
    if raised:
        return replace(worst, refusal=f"etcd raised the alarm {', '.join(raised)}: {_REMEDY}")
    if worst.quota and worst.projected > settings.stop_at * worst.quota:
        return replace(
            worst,
            refusal=f"etcd would hold {worst.projected / _MIB:,.1f} MiB, past {settings.stop_at:.0%} of its quota of "
            f"{worst.quota / _MIB:,.1f} MiB: {_REMEDY}",
        )
    return worst


_CORRUPT = "its members hold different data; write nothing, and follow etcd's documentation on data corruption"

_REMEDY = (
    "wait for a compaction or compact it, defragment (`etcdctl defrag`), disarm the alarm if one is raised, and run "
    "again to resume; if the quota is larger than assumed, set it with --quota-bytes; or rewrap a part with --namespace"
)
