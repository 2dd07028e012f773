"""How fast kube-apiservers write under each key. Arithmetic only: clocks are arguments.

1. An interval is a time that one leader watched from end to end, between two moments at which no campaign was
   unfinished: what rewrap itself wrote under a key then is on record, and is subtracted.
2. What was seen counts, nothing that was inferred: no gap of the watch, no estimate, no reservation.
3. The rate is that of the intervals that ended within the last hour, writes by watched time. Less than
   `LEAST_WATCHED` counts as that: a burst right after a leader or a key came is no rate yet.
4. A key found due by its rate stays due until another one writes, or its limit is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kube_rewrap.worker.fields import Fields, count_of, mapping_of, members_of, text_of

HOUR = 3_600
LEAST_WATCHED = 600
"""Seconds by which the writes seen are divided at the least."""

SAMPLE_SECONDS = 60.0
"""Least length of an interval: so seldom is it written, too."""

_INTERVALS = 61
_KEYS = 100
_MOST = 2**53  # JSON readers agree on integers up to here
_NAME = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """When it ended (seconds since 1970), how many seconds it had, and the writes by fingerprint; 0 are named too."""

    ended: int
    seconds: int
    writes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Haste:
    """Why a key was found due by its rate: its limit then.

    In seconds: how long its rest would have lasted, and how long a rotation takes.
    """

    limit: int
    rest: int
    took: int

    @property
    def because(self) -> str:
        """The reason, as a part of a sentence."""
        return (
            f"at the rate of an hour its rest lasted {_span(self.rest)}, less than three times as long as a rotation "
            f"takes ({_span(self.took)})"
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """The intervals, the oldest first, and the keys that were found due by their rate, by fingerprint."""

    intervals: tuple[Interval, ...] = ()
    hasty: Mapping[str, Haste] = field(default_factory=dict)

    def followed_by(self, interval: Interval) -> Usage:
        """Return the usage with one interval more, and without those that say nothing any more."""
        recent = [one for one in self.intervals if interval.ended - HOUR < one.ended <= interval.ended]
        return replace(self, intervals=(*recent, interval)[-_INTERVALS:])

    def with_hasty(self, found: Mapping[str, Haste], writing: frozenset[str]) -> Usage:
        """Return the usage with keys that were found due; `writing` are all that write now, others are left out."""
        kept = {name: haste for name, haste in {**self.hasty, **found}.items() if name in writing}
        return replace(self, hasty=dict(list(kept.items())[:_KEYS]))

    def rate(self, fingerprint: str, now: float) -> float:
        """Return the writes a second of others under a key, in the last hour; 0 where nothing is known."""
        mine = [
            one
            for one in self.intervals
            if now - HOUR < one.ended <= now + SAMPLE_SECONDS and fingerprint in one.writes
        ]
        watched = sum(one.seconds for one in mine)
        return sum(one.writes[fingerprint] for one in mine) / max(LEAST_WATCHED, watched)

    def haste(self, fingerprint: str, limit: int | None) -> Haste | None:
        """Return why a key was found due by its rate; None when it was not, or its limit was raised since."""
        found = self.hasty.get(fingerprint)
        return found if found is not None and limit is not None and limit <= found.limit else None

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "intervals": [[one.ended, one.seconds, dict(one.writes)] for one in self.intervals],
            "hasty": {name: [haste.limit, haste.rest, haste.took] for name, haste in self.hasty.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Usage:
        """Read the JSON form. Raises ValueError for what is not one: type, value and size."""
        fields = Fields.of(value)
        return cls(
            fields.each("intervals", _interval, _INTERVALS),
            {name: _haste(one) for name, one in _by_key(fields.mapping("hasty")).items()},
        )


NOTHING = Usage()
"""Nothing was measured yet."""


def _interval(value: object) -> Interval:
    ended, seconds, writes = members_of(value, "an interval", 3)
    counts = {name: _count(count) for name, count in _by_key(writes).items()}
    return Interval(_count(ended), _count(seconds), counts)


def _haste(value: object) -> Haste:
    return Haste(*map(_count, members_of(value, "a key that is due by its rate", 3)))


def _by_key(value: object) -> dict[str, object]:
    found = mapping_of(value, "it by key")
    if len(found) > _KEYS:
        raise ValueError(f"it names more than {_KEYS} keys")
    return {text_of(name, "a fingerprint", _NAME): one for name, one in found.items()}


def _count(value: object) -> int:
    return count_of(value, "a count", most=_MOST)


@dataclass(frozen=True, slots=True)
class Look:
    """What a leader knew at one moment, by a clock that never jumps.

    Writes by fingerprint: those its watch has seen since it began, and rewrap's own on record.
    """

    at: float
    seen: Mapping[str, int]
    own: Mapping[str, int]


def between(first: Look, last: Look, ended: int) -> Interval | None:
    """Return what others wrote between two looks; None while that is too short, or nothing was written.

    A key that was not known at the first look is left out: its own writes since then are not known.
    """
    keys = sorted(first.own.keys() & last.own.keys())[:_KEYS]
    writes = {key: _grown(first.seen, last.seen, key) - _grown(first.own, last.own, key) for key in keys}
    seconds = last.at - first.at
    if seconds < SAMPLE_SECONDS or not any(count > 0 for count in writes.values()):
        return None
    return Interval(ended, min(_MOST, int(seconds)), {key: min(_MOST, max(0, count)) for key, count in writes.items()})


def _grown(first: Mapping[str, int], last: Mapping[str, int], key: str) -> int:
    return last.get(key, 0) - first.get(key, 0)


def find_haste(left: int, rate: float, took: float, limit: int) -> Haste | None:
    """Return why a key is due by its rate, None when it is not: `left` writes last three rotations or longer."""
    if rate <= 0 or left >= 3 * took * rate:
        return None
    return Haste(limit, int(left / rate), int(took))


def _span(seconds: int) -> str:
    if seconds < 2 * 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 2 * HOUR else f"{seconds // HOUR} h"
