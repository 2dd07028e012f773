"""When a failing plugin is called again. Pure: times are arguments, in seconds by one clock.

After `FAILURES` failures in a row the circuit is open, and no call is made, for 10 s. Then it is half open: one call at
a time is made. A success closes it; a failure opens it again for 20 s, then 30 s, up to 60 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FAILURES = 5
_STEP_SECONDS = 10.0
_LONGEST_SECONDS = 60.0

CircuitState = Literal["closed", "half_open", "open"]


@dataclass(frozen=True, slots=True)
class Circuit:
    """`failures` in a row; `openings` since the last success, the newest of which ends at `until`."""

    failures: int = 0
    openings: int = 0
    until: float = 0.0

    def failed(self, now: float, jitter: float = 1.0) -> Circuit:
        """Return the circuit after a failure at `now`. `jitter` multiplies the time for which it opens.

        A call that began before the circuit opened may fail later: it does not open it for longer.
        """
        if self.wait(now) > 0:
            return self
        counted = replace(self, failures=self.failures + 1)
        if counted.failures < FAILURES:
            return counted
        openings = self.openings + 1
        seconds = min(_LONGEST_SECONDS, _STEP_SECONDS * openings)
        return replace(counted, openings=openings, until=now + jitter * seconds)

    def wait(self, now: float) -> float:
        """Return for how many seconds no call is to be made; 0.0 unless the circuit is open."""
        return max(0.0, self.until - now) if self.openings else 0.0

    def state(self, now: float) -> CircuitState:
        """Return the state by its usual name."""
        if not self.openings:
            return "closed"
        return "open" if self.wait(now) > 0 else "half_open"
