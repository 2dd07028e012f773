"""What a pace granted, and whether that was more than its ceiling allows. One-sided: a slow machine never fails it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BURST_SECONDS = 0.1
"""What may come at once after a pause, in seconds' worth of the rate."""

# Two clocks of one machine, and timers that fire a clock tick early.
_SLACK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Grant:
    """Objects that were asked for at `begun` and could be used from `ended` on, seconds on one clock for all."""

    begun: float
    ended: float
    objects: int


def excess(grants: Iterable[Grant], rate: float, bursts: int = 1) -> float:
    """Return by how many objects the worst span passed `rate` a second and its bursts; 0 or less: the ceiling held.

    A span reaches from one call's begin to another's end. All that was asked for and granted inside took its place in
    the bucket after the begin, so it can't be more than the span's worth and a burst, however late a clock was read.
    """
    calls = list(grants)
    worst = float("-inf")
    for start in {call.begun for call in calls}:
        used = 0
        for call in sorted((call for call in calls if call.begun >= start), key=lambda call: call.ended):
            used += call.objects
            allowed = rate * (call.ended - start + bursts * BURST_SECONDS + _SLACK_SECONDS)
            worst = max(worst, used - allowed)
    return worst
