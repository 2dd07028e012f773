"""The rate at which kube-apiservers write under each key. Arithmetic only: clocks are arguments.

1. One leader watches an interval from end to end. At both ends no campaign is unfinished, so rewrap's own writes
   under each key are on record, and are subtracted.
2. Only writes that the watch received count: no gap of the watch, no estimate, no reservation.
3. The rate is the sum of the writes over the sum of the seconds of the intervals that ended within the last hour.
   The divisor is at least `LEAST_WATCHED`: a burst right after a new leader or key is no rate yet.
4. A key found due by its rate stays due until another key writes, or the operator raises its limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from kube_rewrap.worker.records.form import Form, Most, Named, Row, whole, within

HOUR = 3_600
LEAST_WATCHED = 600
"""Least divisor of a rate, in seconds."""

SAMPLE_SECONDS = 60.0
"""Least length of an interval. The leader writes the record at most that often for new intervals."""

_INTERVALS = 61
_KEYS = 100
_MOST = 2**53  # JSON readers agree on integers up to here
_NAME = 64


Number = Annotated[int, whole(most=_MOST)]
Fingerprint = Annotated[str, within(most=_NAME)]


@dataclass(frozen=True, slots=True)
class Interval(Row):
    """When it ended (seconds since 1970), its length in seconds, and the writes by fingerprint, 0 included."""

    ended: Number
    seconds: Number
    writes: Annotated[Mapping[Fingerprint, Number], Most(_KEYS)]


@dataclass(frozen=True, slots=True)
class DueByRate(Row):
    """Why a key was found due by its rate.

    `limit` is its write limit then. In seconds: `left_for` is how long the writes left would have lasted at that rate,
    `rotation` how long a rotation takes.
    """

    limit: Number
    left_for: Number
    rotation: Number

    @property
    def because(self) -> str:
        """The reason, as a part of a sentence."""
        return (
            f"at the rate of the last hour the rest would have lasted {_span(self.left_for)}, less than three times as "
            f"long as a rotation takes ({_span(self.rotation)})"
        )


@dataclass(frozen=True, slots=True)
class Usage(Form):
    """The intervals, the oldest first, and by fingerprint the keys that were found due by their rate."""

    intervals: Annotated[tuple[Interval, ...], Most(_INTERVALS)] = ()
    due_by_rate: Annotated[Mapping[Fingerprint, DueByRate], Most(_KEYS), Named(former="hasty")] = field(
        default_factory=dict
    )

    def followed_by(self, interval: Interval) -> Usage:
        """Return the usage with one more interval, and without those that ended an hour or more before it."""
        recent = [one for one in self.intervals if interval.ended - HOUR < one.ended <= interval.ended]
        return replace(self, intervals=(*recent, interval)[-_INTERVALS:])

    def with_due(self, found: Mapping[str, DueByRate], writing: frozenset[str]) -> Usage:
        """Return the usage with keys newly found due; drops the keys that are not in `writing`, all that write now."""
        kept = {name: why for name, why in {**self.due_by_rate, **found}.items() if name in writing}
        return replace(self, due_by_rate=dict(list(kept.items())[:_KEYS]))

    def rate(self, fingerprint: str, now: float) -> float:
        """Return the kube-apiservers' writes a second under a key, in the last hour; 0 if nothing is known."""
        mine = [
            one
            for one in self.intervals
            if now - HOUR < one.ended <= now + SAMPLE_SECONDS and fingerprint in one.writes
        ]
        watched = sum(one.seconds for one in mine)
        return sum(one.writes[fingerprint] for one in mine) / max(LEAST_WATCHED, watched)

    def why_due(self, fingerprint: str, limit: int | None) -> DueByRate | None:
        """Return why a key was found due by its rate; None if it was not, or an operator raised its limit since."""
        found = self.due_by_rate.get(fingerprint)
        return found if found is not None and limit is not None and limit <= found.limit else None


NOTHING = Usage()
"""The usage before the first measurement."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A leader's counts at one moment; `at` is in seconds by a monotonic clock.

    By fingerprint: `seen` are the writes that the watch received since it began, `own` rewrap's own on record.
    """

    at: float
    seen: Mapping[str, int]
    own: Mapping[str, int]


def between(first: Sample, last: Sample, ended: int) -> Interval | None:
    """Return the interval between two samples; None if it is too short, or other clients wrote nothing in it.

    Leaves out a key that is not in both samples: rewrap's own writes under it are unknown.
    """
    keys = sorted(first.own.keys() & last.own.keys())[:_KEYS]
    writes = {key: _grown(first.seen, last.seen, key) - _grown(first.own, last.own, key) for key in keys}
    seconds = last.at - first.at
    if seconds < SAMPLE_SECONDS or not any(count > 0 for count in writes.values()):
        return None
    return Interval(ended, min(_MOST, int(seconds)), {key: min(_MOST, max(0, count)) for key, count in writes.items()})


def _grown(first: Mapping[str, int], last: Mapping[str, int], key: str) -> int:
    return last.get(key, 0) - first.get(key, 0)


def judge_rate(left: int, rate: float, rotation: float, limit: int) -> DueByRate | None:
    """Return why a key is due by its rate; None if its `left` writes last three rotations or longer.

    `rotation` is how long one takes, in seconds; `rate` is in writes a second.
    """
    if rate <= 0 or left >= 3 * rotation * rate:
        return None
    return DueByRate(limit, int(left / rate), int(rotation))


def _span(seconds: int) -> str:
    if seconds < 2 * 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 2 * HOUR else f"{seconds // HOUR} h"
