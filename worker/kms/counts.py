"""What is counted of the calls to plugins, as values for metrics. No key id is in them, nor anything of a plugin's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.worker.kms.circuit import CircuitState
from kube_rewrap.worker.wrapped import Plugin

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds: a local plugin answers in 1 ms, a cloud's KMS in 10 ms to 100 ms."""


class Method(StrEnum):
    """A method of the plugin's service. v1 has no Status."""

    STATUS = "status"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"


class CallOutcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    UNDECIDED = "undecided"
    CANCELLED = "cancelled"
    """By this process: its slice of work ended."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one plugin, method and outcome since this process connected to it."""

    calls: int = 0
    seconds: float = 0.0
    """The sum of their durations, without the waits for the rate ceiling and for a free place."""
    within: tuple[int, ...] = (0,) * len(LATENCY_BOUNDS)
    """How many took at most each of LATENCY_BOUNDS; each number includes the ones before it."""

    def counted(self, seconds: float) -> Calls:
        """Return the counts with one call more."""
        within = tuple(number + (seconds <= bound) for number, bound in zip(self.within, LATENCY_BOUNDS, strict=True))
        return replace(self, calls=self.calls + 1, seconds=self.seconds + seconds, within=within)

    def __add__(self, other: Calls) -> Calls:
        within = tuple(mine + theirs for mine, theirs in zip(self.within, other.within, strict=True))
        return Calls(self.calls + other.calls, self.seconds + other.seconds, within)

    def since(self, before: Calls) -> Calls:
        """Return the calls made after earlier counts of the same plugin, method and outcome."""
        within = tuple(now - then for now, then in zip(self.within, before.within, strict=True))
        return Calls(self.calls - before.calls, max(0.0, self.seconds - before.seconds), within)


@dataclass(frozen=True, slots=True)
class PluginCounts:
    """One plugin as a process sees it. Two stanzas of one name are two plugins: add their counts up for metrics."""

    plugin: Plugin
    calls: Mapping[tuple[Method, CallOutcome], Calls]
    circuits: Mapping[Method, CircuitState]
    status_age: float | None
    """Seconds since Status last named a usable key id; None if it never did."""
    sources: int
    """Wrapped keys that the plugin unwrapped. One that left the cache and came back counts twice."""
    seeds: int
    """Seeds that this process had wrapped and wrote with."""
    refused: int = 0
    """Wrapped keys that the plugin did not unwrap, though it works: their objects are quarantined."""
