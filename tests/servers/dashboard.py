"""deploy/dashboard.json: what its panels show of a Prometheus, without Grafana."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.documents.deployment import DEPLOY
from tests.servers.prometheus import Prometheus

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
"""The panels, as Grafana knows them."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel, by the name in its legend; `values` are pairs of time (seconds since 1970) and value."""

    name: str
    values: tuple[tuple[float, float], ...]


def series_of(panel: dict[str, Any], prometheus: Prometheus, start: float, end: float, step: float) -> list[Series]:
    """What a panel shows; rates are taken over ten seconds. Values that are no number are left out.

    Of an instant query, that is the value at the end.
    """
    return [one for target in panel["targets"] for one in _series(target, prometheus, start, end, step)]


def _series(target: dict[str, Any], prometheus: Prometheus, start: float, end: float, step: float) -> Iterator[Series]:
    expression = target["expr"].replace("$__rate_interval", "10s")
    if target.get("instant"):
        start = end
    for found in prometheus.query_range(expression, start, end, step):
        name: str = target["legendFormat"]
        for label, text in found["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", text)
        values = [(float(at), float(value)) for at, value in found["values"]]
        numbers = tuple((at, value) for at, value in values if not math.isnan(value))
        if numbers:
            yield Series(name, numbers)
