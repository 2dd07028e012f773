"""GCRA, the generic cell rate algorithm, as arithmetic (ITU-T I.371, virtual scheduling).

A bucket is one number, the time at which the next token is due. A call takes its tokens at once and returns how
long to wait before using them, so calls get their tokens in the order of the calls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` tokens a second; after a pause a caller may take up to `burst` seconds' worth without a wait.

    `due` is the time at which the next token is due, in seconds by the clock of the caller's `now`.
    """

    rate: float
    burst: float = 0.1
    due: float = 0.0

    def take(self, tokens: int, now: float) -> tuple[Bucket, float]:
        """Return the bucket after taking tokens at time `now`, and the seconds to wait before using them."""
        due = max(self.due, now) + tokens / self.rate
        return replace(self, due=due), max(0.0, due - self.burst - now)
