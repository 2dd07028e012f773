"""GCRA, the generic cell rate algorithm, as arithmetic (ITU-T I.371, virtual scheduling).

A bucket is one number, the time at which the next token is due. Whoever takes tokens is told how
long to wait; tokens are granted in the order of the calls and never lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` tokens a second; up to `burst` seconds' worth may be taken at once after a pause."""

    rate: float
    burst: float = 0.1
    due: float = 0.0

    def take(self, tokens: int, now: float) -> tuple[Bucket, float]:
        """Return the bucket after taking tokens at time `now`, and the seconds to wait before using them."""
        due = max(self.due, now) + tokens / self.rate
        return replace(self, due=due), max(0.0, due - self.burst - now)
