"""deploy/alerts.yaml and dashboard.json: every metric, label and log event that they name is one that we have."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from kube_rewrap.cli.parser import COMMANDS
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.worker.kms.counts import CallOutcome, Method
from kube_rewrap.worker.queue.metrics import WorkerMetrics
from kube_rewrap.worker.records.campaign import CampaignState
from tests.documents.deployment import DEPLOY, TOP

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RUNBOOK = TOP / "docs" / "alerts.md"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

EXPRESSIONS = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
    *(pytest.param(target["expr"], id=panel["title"]) for panel in PANELS for target in panel["targets"]),
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
DURATION = r"\d+[smhd]"
# Words of PromQL that may stand before or between what we name.
WORDS = {
    "absent",
    "and",
    "by",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "min",
    "on",
    "or",
    "rate",
    "sum",
    "unless",
    "vector",
}


def metrics() -> dict[str, set[str]]:
    """The labels of each metric by its name, as it stands in /metrics."""
    registry = CollectorRegistry()
    WorkerMetrics(registry, 500.0, 2)
    SchedulerMetrics(registry)
    return {_exposed(family): _labels(family) for family in registry.collect()} | {"up": {"job", "instance"}}


def _exposed(family: Metric) -> str:
    """The name of its samples; of a histogram's, those that the dashboard asks for."""
    return family.name + {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")


def _labels(family: Metric) -> set[str]:
    return {*getattr(family, "_labelnames", ()), *(["le"] if family.type == "histogram" else [])}


METRICS = metrics()


def named(expression: str) -> set[str]:
    return set(re.findall(r"kube_rewrap_\w+|\bup\b", expression))


def labels_of(expression: str) -> set[str]:
    return {label for name in named(expression) & set(METRICS) for label in METRICS[name]}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_exists(expression: str) -> None:
    assert named(expression) != set()
    assert named(expression) - set(METRICS) == set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_is_one_of_its_metric(expression: str) -> None:
    for name, selector in re.findall(r"(kube_rewrap_\w+|\bup)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)[=!]~?\"", selector)) <= METRICS[name]
    grouped = [label for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(", ")]
    assert set(grouped) <= labels_of(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_whole(expression: str) -> None:
    """No parser of PromQL is at hand: brackets, and no word that is neither ours nor PromQL's."""
    rest = re.sub(r"\"[^\"]*\"", "", expression)
    for opening, closing in ("()", "{}", "[]"):
        assert rest.count(opening) == rest.count(closing)
    words = rf"(?:by|on) \([^)]*\)|offset {DURATION}|kube_rewrap_\w+|\bup\b"
    ours = rf"\[(?:{DURATION}|\$__rate_interval)\]|\{{[^}}]*\}}|{words}"
    rest = re.sub(ours, " ", rest)
    assert set(re.findall(r"[A-Za-z_]\w*", rest)) <= WORDS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_states_and_outcomes_that_are_asked_for_exist(expression: str) -> None:
    states = {one for text in re.findall(r"state=~?\"([^\"]*)\"", expression) for one in text.split("|")}
    assert states <= {state.value for state in CampaignState}
    registry = CollectorRegistry()
    WorkerMetrics(registry, 500.0, 2)
    known = {sample.labels.get("outcome") for family in registry.collect() for sample in family.samples}
    known |= {outcome.value for outcome in CallOutcome}
    assert {one for text in re.findall(r"outcome=~?\"([^\"]*)\"", expression) for one in text.split("|")} <= known
    assert set(re.findall(r"method=\"([^\"]*)\"", expression)) <= {method.value for method in Method}


@each_rule
def test_a_rule_has_what_a_rule_needs(rule: dict[str, Any]) -> None:
    assert {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"KubeRewrap[A-Z][A-Za-z]+", rule["alert"])
    assert re.fullmatch(DURATION, rule.get("for", "0s"))
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


@each_rule
def test_a_summary_shows_labels_that_the_expression_keeps(rule: dict[str, Any]) -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    kept = {label for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in labels.split(", ")}
    assert shown <= kept


@each_rule
def test_a_description_names_commands_and_log_events_that_exist(rule: dict[str, Any]) -> None:
    text = rule["annotations"]["description"]
    page = (TOP / "docs" / "log-events.md").read_text(encoding="utf-8")
    events = re.findall(r"\b([a-z]+\.[a-z_]+)\b", re.sub(r"docs/\S+|--\w+", "", text))
    assert [event for event in events if f"`{event}`" not in page] == []
    assert set(re.findall(r"\brewrap ([a-z-]+)", text)) <= set(COMMANDS)


def test_each_alert_has_a_section_in_the_runbook_in_the_order_of_the_rules() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [rule["alert"] for rule in RULES]
    # The anchor of a heading is its lower case.
    wanted = [f"docs/alerts.md#{rule['alert'].lower()}" for rule in RULES]
    assert [rule["annotations"]["runbook_url"] for rule in RULES] == wanted


@each_rule
def test_the_runbook_says_how_urgent_an_alert_is(rule: dict[str, Any]) -> None:
    section = RUNBOOK.read_text(encoding="utf-8").partition(f"## {rule['alert']}\n\n")[2]
    assert section.startswith(f"*{rule['labels']['severity'].title()}, ")


def test_the_runbook_links_to_sections_that_exist() -> None:
    links = re.findall(r"\]\(([\w-]+\.md)(?:#([\w-]+))?\)", RUNBOOK.read_text(encoding="utf-8"))
    assert len(links) > 20
    for page, section in links:
        headings = re.findall(r"^#+ (.+)$", (TOP / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
        assert not section or section in anchors, f"{page}#{section}"


def test_there_is_an_alert_for_everything_that_needs_a_hand() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    wanted = [
        "NoLeader",
        "CampaignStuck",
        "Drift",
        "KeyBudgetDue",
        "KeyBudgetExhausted",
        "NoProof",
        "NeverProved",
        "Quarantine",
        "QuarantineGrew",
        "KmsPluginFailing",
        "KmsStatusOld",
        "KekHeld",
        "KmsSourcesRefused",
        "Down",
        "NoWorker",
        "EtcdRestored",
        "RotationHeld",
        "RotationStuck",
    ]
    assert {f"KubeRewrap{name}" for name in wanted} <= set(names)


def test_the_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24, "Grafana's grid has 24 columns"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_a_panel_of_one_moment_asks_for_one_moment() -> None:
    """A range would show each state and step that was there within hours."""
    for panel in PANELS:
        is_of_one_moment = panel["type"] != "timeseries"
        assert {bool(target.get("instant")) for target in panel["targets"]} == {is_of_one_moment}, panel["title"]


def test_the_picture_in_docs_has_every_panel() -> None:
    picture = (TOP / "docs" / "dashboard.svg").read_text(encoding="utf-8")
    assert [panel["title"] for panel in PANELS if f">{panel['title']}</text>" not in picture] == []


def test_the_dashboard_asks_for_its_data_source_and_names_none() -> None:
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == ["datasource"]
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert {json.dumps(source, sort_keys=True) for source in sources} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }
