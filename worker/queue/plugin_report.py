"""The calls to KMS plugins, as a worker's children pass them on to its parent. Values, without key ids.

A child reports, with the result of each message, what is new since its last report, and the parent adds up: a child
that ends takes nothing away. A report is bounded, for it travels as text of limited length: it has `MOST_PLUGINS`
plugins, and the others wait for the next message.

Not handled: the calls since its last report of a child that is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import get_args
from urllib.parse import quote, unquote

from kube_rewrap.worker.fields import Fields, count_of, list_of, members_of, number_of
from kube_rewrap.worker.kms.counts import LATENCY_BOUNDS, CallOutcome, Calls, Method, PluginCounts
from kube_rewrap.worker.wrapped import LONGEST_LABEL, KmsVersion, Plugin, provider_label

MOST_PLUGINS = 8
"""One takes 0.5 kB as a rule, 5 kB at most; a result has 64 kB (`app.CountedTask`)."""

_LONGEST_QUOTED = 12 * LONGEST_LABEL
_NO_CALLS: Mapping[tuple[Method, CallOutcome], Calls] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PluginReport:
    """Calls to the plugins of one provider, as PluginCounts has them; reports of one provider add up."""

    provider: str
    """As `provider_label` returns it."""
    version: KmsVersion
    calls: Mapping[tuple[Method, CallOutcome], Calls] = field(default_factory=lambda: _NO_CALLS)
    failing: frozenset[Method] = frozenset()
    """The methods whose circuit is open or half open: calls failed in a row, and none has succeeded since."""
    status_age: float | None = None
    sources: int = 0
    seeds: int = 0
    refused: int = 0

    def __add__(self, newer: PluginReport) -> PluginReport:
        keys = {**self.calls, **newer.calls}
        calls = {key: self.calls.get(key, Calls()) + newer.calls.get(key, Calls()) for key in keys}
        return replace(
            newer,
            calls=calls,
            sources=self.sources + newer.sources,
            seeds=self.seeds + newer.seeds,
            refused=self.refused + newer.refused,
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON form. It has no quote and no backslash: Celery's repr of a text does not escape all."""
        calls: dict[str, dict[str, list[float]]] = {}
        for (method, outcome), counts in self.calls.items():
            numbers = [counts.calls, round(counts.seconds, 6), *counts.within]
            calls.setdefault(method.value, {})[outcome.value] = numbers
        return {
            "provider": quote(self.provider, safe=""),
            "version": self.version,
            "calls": calls,
            "failing": sorted(method.value for method in self.failing),
            "status_age": None if self.status_age is None else round(self.status_age, 3),
            "sources": self.sources,
            "seeds": self.seeds,
            "refused": self.refused,
        }

    @classmethod
    def from_json(cls, value: object) -> PluginReport:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        calls = {
            (Method(method), CallOutcome(outcome)): _calls_of(numbers)
            for method, outcomes in fields.mapping("calls").items()
            for outcome, numbers in Fields.of({"outcomes": outcomes}).mapping("outcomes").items()
        }
        version = fields.text("version")
        if version not in get_args(KmsVersion):
            raise ValueError("version is neither v1 nor v2")
        return cls(
            provider=provider_label(unquote(fields.text("provider", _LONGEST_QUOTED))),
            version="v1" if version == "v1" else "v2",
            calls=calls,
            failing=frozenset(map(Method, fields.texts("failing", len(Method)))),
            status_age=fields.number("status_age") if fields.has("status_age") else None,
            sources=fields.count("sources"),
            seeds=fields.count("seeds"),
            refused=fields.count("refused"),
        )


class PluginMeter:
    """What one engine of a child has reported of its plugins' counts, which begin at 0 with the engine."""

    def __init__(self) -> None:
        self._reported: dict[Plugin, PluginCounts] = {}

    def report(self, counts: Iterable[PluginCounts]) -> tuple[PluginReport, ...]:
        """Return what is new since the last report, of the plugins first whose last report is the oldest."""
        turn = {plugin: place for place, plugin in enumerate(self._reported)}
        new = [one for one in counts if _has_news(one, self._reported.get(one.plugin))]
        new = sorted(new, key=lambda one: turn.get(one.plugin, -1))[:MOST_PLUGINS]
        reports = tuple(_since(one, self._reported.pop(one.plugin, None)) for one in new)
        self._reported.update({one.plugin: one for one in new})
        return reports


def reports_in(done: Mapping[str, object]) -> tuple[PluginReport, ...]:
    """Return the reports in the JSON form of a `MessageResult`, none if it has none or they are malformed."""
    try:
        return tuple(map(PluginReport.from_json, list_of(done.get("plugins", []), "plugins", MOST_PLUGINS)))
    except ValueError:
        return ()


def _has_news(now: PluginCounts, before: PluginCounts | None) -> bool:
    return before is None or _counted(now) != _counted(before)


def _counted(counts: PluginCounts) -> tuple[object, ...]:
    return counts.calls, counts.sources, counts.seeds, counts.refused


def _since(now: PluginCounts, before: PluginCounts | None) -> PluginReport:
    earlier = before or PluginCounts(now.plugin, {}, {}, None, 0, 0)
    calls = {key: made.since(earlier.calls.get(key, Calls())) for key, made in now.calls.items()}
    return PluginReport(
        provider=provider_label(now.plugin.name),
        version=now.plugin.version,
        calls={key: made for key, made in calls.items() if made.calls},
        failing=frozenset(method for method, state in now.circuits.items() if state != "closed"),
        status_age=now.status_age,
        sources=now.sources - earlier.sources,
        seeds=now.seeds - earlier.seeds,
        refused=now.refused - earlier.refused,
    )


def _calls_of(value: object) -> Calls:
    made, seconds, *within = members_of(value, "calls", 2 + len(LATENCY_BOUNDS))
    buckets = tuple(count_of(number, "a bucket") for number in within)
    return Calls(count_of(made, "calls"), number_of(seconds, "seconds"), buckets)
