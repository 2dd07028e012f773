"""How a child's counts of its calls to KMS plugins reach the parent: each once, whole, whatever their names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pytest
from celery.utils.saferepr import saferepr

from kube_rewrap.worker.kms.circuit import CircuitState
from kube_rewrap.worker.kms.counts import LATENCY_BOUNDS, CallOutcome, Calls, Method, PluginCounts
from kube_rewrap.worker.queue.app import CountedTask, counted
from kube_rewrap.worker.queue.execution import MessageResult
from kube_rewrap.worker.queue.plugin_report import MOST_PLUGINS, PluginMeter, PluginReport, reports_in
from kube_rewrap.worker.queue.tasks import _encoded
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.wrapped import Plugin

OK, REFUSED = (Method.DECRYPT, CallOutcome.OK), (Method.DECRYPT, CallOutcome.REFUSED)
MANY = 10**12


def counts(
    name: str = "cloud", ok: Iterable[float] = (0.03,), state: CircuitState = "closed", *, sources: int = 1
) -> PluginCounts:
    made = Calls()
    for seconds in ok:
        made = made.counted(seconds)
    circuits: dict[Method, CircuitState] = {Method.DECRYPT: state, Method.STATUS: "closed"}
    return PluginCounts(Plugin(name, "v2", "unix:///kms.sock"), {OK: made}, circuits, 1.5, sources, 0)


def arrived(reports: tuple[PluginReport, ...]) -> tuple[PluginReport, ...]:
    """What the parent reads of a result with these reports, as Celery passes it on."""
    text = _encoded(MessageResult("worked", plugins=reports))
    return reports_in(counted(saferepr(text, CountedTask.resultrepr_maxsize)))


def test_only_what_is_new_is_reported() -> None:
    meter = PluginMeter()
    assert meter.report([counts()]) == (
        PluginReport("cloud", "v2", {OK: Calls().counted(0.03)}, status_age=1.5, sources=1),
    )
    assert meter.report([counts()]) == ()
    [new] = meter.report([counts(ok=(0.03, 0.2), state="half_open", sources=3)])
    assert new.calls[OK].calls == 1
    assert new.calls[OK].seconds == pytest.approx(0.2)
    assert new.calls[OK].within == tuple(int(bound >= 0.2) for bound in LATENCY_BOUNDS)
    assert (new.sources, new.failing) == (2, frozenset({Method.DECRYPT}))


def test_no_plugin_waits_for_ever_for_its_report() -> None:
    meter = PluginMeter()
    reported: Counter[str] = Counter()
    every: list[PluginCounts] = []
    for turn in (1, 2, 3, 4):
        every = [counts(f"p{number:02}", [0.1] * turn) for number in range(2 * MOST_PLUGINS)]
        reports = meter.report(every)
        assert len(reports) == MOST_PLUGINS
        reported.update({one.provider: one.calls[OK].calls for one in reports})
    every = [counts(f"p{number:02}", [0.1] * 4) for number in range(2 * MOST_PLUGINS)]
    reported.update({one.provider: one.calls[OK].calls for one in meter.report(every)})
    assert reported == {f"p{number:02}": 4 for number in range(2 * MOST_PLUGINS)}


@pytest.mark.parametrize("name", ["cloud", "a'b\"c\\d\n", "\x1b[31mred", "ключ", "🔑" * 200, "", "\ud800"], ids=ascii)
def test_a_report_arrives_whole_whatever_the_providers_name(name: str) -> None:
    [report] = PluginMeter().report([counts(name)])
    assert arrived((report,)) == (report,)
    assert report.provider.isprintable()
    assert len(report.provider) <= 100


def test_the_largest_reports_arrive_whole() -> None:
    huge = Calls(MANY, float(MANY), (MANY,) * len(LATENCY_BOUNDS))
    calls = {(method, outcome): huge for method in Method for outcome in CallOutcome}
    report = PluginReport("🔑" * 100, "v2", calls, frozenset(Method), 2.0**39, MANY, MANY, MANY)
    assert arrived((report,) * MOST_PLUGINS) == (report,) * MOST_PLUGINS


def test_a_report_does_not_hold_the_endpoint() -> None:
    [report] = PluginMeter().report([counts()])
    assert "kms.sock" not in json.dumps(report.to_json())


def test_a_result_without_plugins_has_no_report() -> None:
    assert reports_in({"outcome": "worked", "report": BatchReport().to_json()}) == ()
