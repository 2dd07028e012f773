"""Cuts a range into parts of few keys, request by request, by the answers so far. Pure.

etcd visits every key of the range that a Range request names, whatever its limit, to fill the answer's `count`. So the
pages of one long range cost etcd quadratic time. A request for a part costs no more than the part holds.

No cheap request says where the keys of a range lie, but every answer counts the keys of its part:

1. Where the caller names borders, such as the ends of namespaces, a part spans some of them: more after a part with
   few keys, fewer after one with many. Without borders, the first part is the whole range. If it holds few keys, it
   needs no cut.
2. A part with too many keys becomes a bound: the next parts end inside it, until few of its keys are left.
3. Inside a bound, the next part ends at the subtree of the last key at the byte where half of the answer's keys differ.
4. After a part with few keys, the next one spans more values of that byte. After an empty part, it ends after the
   parent of that byte's subtree and the parent's neighbour.

So etcd visits a key a few times, and once more for each byte of its path at which more keys than a part may hold follow
a gap. The worst names are a ladder, each directory a prefix of the next: there it visits each key once for each rung.

The borders and counts are hints only: each part begins where the one before it ended, or after its last key that was
read. Keys that other clients create or delete meanwhile change the size of an answer; no key is read twice or missed
for it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kube_rewrap.worker.etcd.ranges import KeyRange, after, prefix_end

_MOST_WIDER = 16
_WIDER_IN_A_GAP = 4
_MOST_BORDERS = 256
"""Most borders in a part: after a stretch without keys, the next namespaces may each hold thousands."""


@dataclass(frozen=True, slots=True)
class Borders:
    """Keys of a range at which a part should end: a prefix, and the sorted names that follow it."""

    prefix: bytes
    names: Sequence[bytes]

    def after(self, start: bytes, count: int) -> bytes | None:
        """Return the border that is the `count`th after `start`; the last one if fewer follow, None without any."""
        name = start[len(self.prefix) :] if start.startswith(self.prefix) else b""
        place = bisect_right(self.names, name)
        if start >= prefix_end(self.prefix) or place == len(self.names):
            return None
        return self.prefix + self.names[min(place + count, len(self.names)) - 1]


@dataclass(slots=True)
class _Bound:
    """The end of a part, and how many keys before it are unread, by the last answers; infinite if none counted them."""

    end: bytes
    left: float


@dataclass(frozen=True, slots=True)
class _Step:
    """The end of a part by its distance from a prefix: `width` values of the prefix's last byte."""

    prefix: bytes
    width: int = 1

    @property
    def end(self) -> bytes | None:
        """The key after the subtrees that the step spans, at most those of one parent; None = no end."""
        if not self.prefix:
            return None
        last = self.prefix[-1] + self.width
        end = self.prefix[:-1] + bytes([last]) if last <= 0xFF else prefix_end(self.prefix[:-1])
        return None if end == b"\0" else end


class Parts:
    """See the module's docstring. Request `next` and pass the answer to `learn`, in turn, until `is_done`."""

    def __init__(self, keys: KeyRange, borders: Borders | None = None) -> None:
        self._start = keys.start
        self._borders = borders
        self._span = 1
        # The outermost first. Without borders it has 0 left, so that the first part is the whole range.
        self._bounds = [_Bound(keys.end, 0 if borders is None else math.inf)]
        self._step = self._asked_step = _Step(keys.start)
        self._is_in_gap = False
        self._asked = keys.end

    @property
    def is_done(self) -> bool:
        """Whether the answers have covered the whole range."""
        return not self._bounds

    @property
    def left(self) -> int:
        """How many keys of the range are unread, by the last answers; at least 1 until `is_done`."""
        counted = (int(bound.left) for bound in self._bounds if bound.left < math.inf)
        return max(1, next(counted, 0)) if self._bounds else 0

    def next(self, most: int) -> KeyRange:
        """Return the next part. It holds about `most` keys at most where the answers so far show how to cut it."""
        if self._is_at_border and self._border() is None:
            self._bounds[0].left = 0  # all borders lie behind: the rest is one part
        end = next((bound.end for bound in self._bounds if bound.left <= most), None)
        if end is None and self._is_at_border:
            end = self._border()
        if end is None:
            bound = self._bounds[-1].end
            self._asked_step = self._choose(bound)
            end = min(self._asked_step.end or bound, bound)
        self._asked = end
        return KeyRange(self._start, end)

    @property
    def _is_at_border(self) -> bool:
        return len(self._bounds) == 1 and self._bounds[0].left == math.inf

    def _border(self) -> bytes | None:
        end = None if self._borders is None else self._borders.after(self._start, self._span)
        return end if end is not None and end < self._bounds[0].end else None

    def learn(self, keys: Sequence[bytes], left: int, most: int) -> None:
        """Use the answer for the part of `next`: its first keys in order, and how many further ones the part holds.

        The next part begins after the last of them, or, without further ones, where this part ends.
        """
        if not keys or not left:
            self.leave(len(keys), most)
            return
        self._resize_span(len(keys) + left, most)
        self._count(len(keys))
        self._bounds[-1].left = left
        self._start = after(keys[-1])
        self._is_in_gap = False
        # Whatever `left` is: the next request may be for fewer keys, and a step of earlier keys would end before them.
        self._step = _Step(keys[-1][: _common(keys[len(keys) // 2], keys[-1]) + 1])

    def leave(self, count: int, most: int) -> None:
        """Use the answer for the part of `next`, which holds `count` keys. The next part begins where it ends."""
        self._resize_span(count, most)
        is_new = self._count(count)
        self._start = self._bounds.pop().end
        self._step = _Step(self._start, self._wider(count, most) if is_new else 1)
        self._is_in_gap = is_new and not count
        while len(self._bounds) > 1 and not self._bounds[-1].left:
            # By the counts, nothing is left before this end: the next part spans it, and saves a request.
            self._step, self._is_in_gap = _Step(self._bounds.pop().end), False

    def skip(self, start: bytes, length: int) -> None:
        """Continue at `start`, unless the answers have covered it.

        The next part ends with the keys that share the first `length` bytes of `start`; more bytes where these are
        known to be too many.
        """
        if start <= self._start:
            return
        while self._bounds and self._bounds[-1].end <= start:
            self._bounds.pop()
        steps = [_Step(start[:length]) for length in range(length, len(start) + 1)]
        inside = (step for step in steps if self._bounds and step.end is not None and step.end < self._bounds[-1].end)
        self._start, self._step, self._is_in_gap = start, next(inside, steps[-1]), False

    def _count(self, count: int) -> bool:
        """Make the end of the part of `next` the innermost bound, `count` keys nearer; returns whether it is new."""
        while self._bounds[-1].end < self._asked:
            self._bounds.pop()
        is_new = self._bounds[-1].end > self._asked
        for bound in self._bounds:
            bound.left = max(0, bound.left - count)
        if is_new:
            self._bounds.append(_Bound(self._asked, 0))
        return is_new

    def _resize_span(self, count: int, most: int) -> None:
        """After a part between borders with `count` keys: let the next one hold about half of `most`."""
        if self._is_at_border:
            span = self._span * most // (2 * count) if count else self._span * _WIDER_IN_A_GAP
            self._span = max(1, min(span, self._span * _WIDER_IN_A_GAP, _MOST_BORDERS))

    def _wider(self, count: int, most: int) -> int:
        """Return the width of the part after an exhausted one with `count` keys."""
        if len(self._start) != len(self._asked_step.prefix):
            return 1  # the part ended at another byte
        width = self._asked_step.width
        return max(1, width * min(_MOST_WIDER, most // (2 * count))) if count else width

    def _choose(self, bound: bytes) -> _Step:
        """Return the step of the next part, which has to end before `bound`; one that does not is cut there."""
        step = self._step
        if self._is_in_gap:
            parent = _Step(step.prefix[:-1], 2)
            if parent.end is not None and parent.end < bound:
                return parent
            step = _Step(step.prefix, step.width * _WIDER_IN_A_GAP)
        while step.width > 1 and (step.end is None or step.end >= bound):
            step = _Step(step.prefix, step.width // 2)
        return step


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes two keys have in common at their beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
