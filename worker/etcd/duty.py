"""How much of the time a process reads the registry, by etcd's latency. Pure.

1. After a read of t seconds a process rests until reads take no more than `share` of the time, and no read asks for
   more than `_AT_ONCE` objects: etcd works for so many of 1 kB about 1 ms, for which other requests may have to wait.
   With a share of 1 it never rests, and asks for as much at once as its caller wants.
2. A read is slow when it took longer than `_CALM_SECONDS`, and than `_TOLERANCE` times the fastest read of its size.
   The size counts the bytes of the answer and the keys that etcd visited, and is rounded up to a power of two.
3. A slow read doubles `pressure`, up to `_MOST_PRESSURE`; another one lowers it by a tenth, down to 1.
4. Rests last `pressure` times as long, and reads ask for as many fewer objects.

So a scan takes at most `_MOST_PRESSURE` times its usual rests, and no rest is longer than `_LONGEST_REST`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_CALM_SECONDS = 0.01
_TOLERANCE = 3.0
_DRIFT = 1.01
_MOST_PRESSURE = 4.0
_RELIEF = 0.9
_LONGEST_REST = 1.0
_AT_ONCE = 100
_FEW = 8
_VISIT = 32
"""etcd visits a key in about the time in which it sends so many bytes."""
_LEAST_SIZE = 2**16
"""Bytes of an answer that takes etcd about as long as it takes to read the request."""


@dataclass(frozen=True, slots=True)
class DutyCycle:
    """The share of the time that reads may take, and what the reads so far have shown.

    `fastest` is the seconds of the fastest read of each size. It rises by 1 % a read, so that reads become normal again
    in a cluster that has become slower for good.
    """

    share: float = 1.0
    pressure: float = 1.0
    fastest: Mapping[int, float] = field(default_factory=dict)

    @property
    def rests(self) -> bool:
        """Whether reads rest at all."""
        return self.share < 1

    def rest_after(self, seconds: float) -> float:
        """Return how many seconds to rest after a read of so many seconds."""
        return min(_LONGEST_REST, seconds * (1 / self.share - 1) * self.pressure)

    def limit(self, objects: int) -> int:
        """Return how many objects to ask for where a caller asks for `objects`."""
        return min(objects, max(_FEW, int(min(objects, _AT_ONCE) / self.pressure))) if self.rests else objects

    def after_read(self, seconds: float, size: int, visited: int) -> DutyCycle:
        """Return the state after a read of `size` bytes, for which etcd visited so many keys."""
        kind = max(_LEAST_SIZE, size + _VISIT * visited).bit_length()
        before = self.fastest.get(kind)
        fastest = seconds if before is None else min(seconds, before * _DRIFT)
        is_slow = seconds > max(_CALM_SECONDS, _TOLERANCE * fastest)
        pressure = min(_MOST_PRESSURE, 2 * self.pressure) if is_slow else max(1.0, _RELIEF * self.pressure)
        return replace(self, pressure=pressure, fastest={**self.fastest, kind: fastest})
