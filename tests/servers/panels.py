"""Draws the panels of a dashboard as one SVG, as Grafana would lay them out. Only for the picture in docs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from tests.servers.dashboard import Series

_COLUMN, _ROW, _GAP = 50, 30, 8
_COLUMNS = 24
_COLORS = ("#2f6fb5", "#d9822b", "#3d9a50", "#b04a9c", "#7a6ad8", "#c23b3b", "#2a9d9d", "#8a6d3b")
_STATES = {"green": "#2e8b45", "orange": "#cf7a1c", "red": "#c23b3b"}
_INK, _FAINT, _GRID, _PAGE, _CARD, _EDGE = "#1f2733", "#66707d", "#e4e8ed", "#f4f6f8", "#ffffff", "#d6dbe1"
_FONT = "font-family=\"-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\""

Panel = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Box:
    """A panel's rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def draw(shown: Sequence[tuple[Panel, list[Series]]], start: float, end: float) -> str:
    """Return the SVG of panels with what they show between two times (seconds since 1970)."""
    width = _COLUMNS * _COLUMN + _GAP
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in shown) * _ROW + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_FONT} font-size="12">',
        f'<rect width="{width}" height="{height}" fill="{_PAGE}"/>',
    ]
    for panel, series in shown:
        place = panel["gridPos"]
        box = _Box(
            place["x"] * _COLUMN + _GAP,
            place["y"] * _ROW + _GAP,
            place["w"] * _COLUMN - _GAP,
            place["h"] * _ROW - _GAP,
        )
        lines += _panel(panel, series, box, start, end)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, series: list[Series], box: _Box, start: float, end: float) -> Iterator[str]:
    yield (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="4" fill="{_CARD}"'
        f' stroke="{_EDGE}"/>'
    )
    yield _text(box.x + 10, box.y + 19, panel["title"], weight=600)
    if not series:
        nothing = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        yield _text(box.x + box.width / 2, box.y + box.height / 2 + 10, nothing, color=_FAINT, anchor="middle")
        return
    match panel["type"]:
        case "stat":
            yield from _stat(panel, series, box)
        case "gauge" | "bargauge":
            yield from _bars(panel, series, box)
        case _:
            yield from _lines(panel, series, box, start, end)


def _stat(panel: Panel, series: list[Series], box: _Box) -> Iterator[str]:
    """The last value of each series, or its name, side by side."""
    part = box.width / len(series)
    for number, one in enumerate(series):
        value = one.values[-1][1]
        text = one.name if panel["options"].get("textMode") == "name" else _worded(panel, value)
        middle = box.x + part * (number + 0.5)
        size = min(30.0, (part - 16) / max(1, len(text)) / 0.66)
        yield _text(middle, box.y + 68, text, size=size, weight=600, color=_color(panel, value), anchor="middle")
        if panel["options"].get("textMode") == "value_and_name":
            yield _text(middle, box.y + 92, one.name, color=_FAINT, anchor="middle", size=11)


def _worded(panel: Panel, value: float) -> str:
    """The word that a panel has for a value, or the value."""
    for mapping in panel["fieldConfig"]["defaults"].get("mappings", []):
        if (word := mapping["options"].get(f"{value:g}")) is not None:
            return str(word["text"])
    return _shown(value, _unit(panel))


def _bars(panel: Panel, series: list[Series], box: _Box) -> Iterator[str]:
    """A bar for each series, up to the panel's maximum."""
    step = min(52.0, (box.height - 34) / len(series))
    for number, one in enumerate(series):
        value, top = one.values[-1][1], box.y + 34 + number * step
        yield _text(box.x + 10, top + 12, one.name, color=_FAINT, size=11)
        shown = _shown(value, _unit(panel))
        yield _text(box.x + box.width - 10, top + 12, shown, weight=600, anchor="end")
        full = box.width - 20
        yield f'<rect x="{box.x + 10:g}" y="{top + 18:g}" width="{full:g}" height="14" rx="3" fill="{_GRID}"/>'
        filled = full * max(0.0, min(1.0, value))
        color = _color(panel, value, _COLORS[0])
        yield f'<rect x="{box.x + 10:g}" y="{top + 18:g}" width="{filled:.1f}" height="14" rx="3" fill="{color}"/>'


def _lines(panel: Panel, series: list[Series], box: _Box, start: float, end: float) -> Iterator[str]:
    """Curves over time, with axes and a legend."""
    names = [escape(one.name) for one in series]
    legend = list(_legend(names, box))
    rows = 1 + max(row for row, _, _ in legend)
    left, right = box.x + 58, box.x + box.width - 14
    top, bottom = box.y + 32, box.y + box.height - 26 - 15 * rows
    ticks = _ticks(max(value for one in series for _, value in one.values))
    for tick in ticks:
        y = bottom - (bottom - top) * tick / ticks[-1]
        yield f'<path d="M{left:g} {y:.1f}H{right:g}" stroke="{_GRID}"/>'
        yield _text(left - 6, y + 4, _shown(tick, _unit(panel)), color=_FAINT, size=10, anchor="end")
    for number in range(5):
        x, seconds = left + (right - left) * number / 4, (start - end) * (4 - number) / 4
        label, anchor = (f"{seconds:.0f} s", "middle") if number < 4 else ("now", "end")
        yield _text(x, bottom + 15, label, color=_FAINT, size=10, anchor=anchor)
    for number, one in enumerate(series):
        path = "".join(_path(one, start, end, ticks[-1], _Box(left, top, right - left, bottom - top)))
        yield f'<path d="{path}" fill="none" stroke="{_COLORS[number % len(_COLORS)]}" stroke-width="1.6"/>'
    for number, (row, x, name) in enumerate(legend):
        y = box.y + box.height - 10 - 15 * (rows - 1 - row)
        yield f'<rect x="{x:g}" y="{y - 8:g}" width="10" height="4" fill="{_COLORS[number % len(_COLORS)]}"/>'
        yield _text(x + 14, y, name, color=_FAINT, size=10, is_escaped=True)


def _legend(names: Sequence[str], box: _Box) -> Iterator[tuple[int, float, str]]:
    """The row, the place in it, and the name of each entry."""
    row, x = 0, box.x + 12
    for name in names:
        width = 26 + 5.7 * len(name)
        if x + width > box.x + box.width - 6 and x > box.x + 12:
            row, x = row + 1, box.x + 12
        yield row, x, name
        x += width


def _path(one: Series, start: float, end: float, highest: float, box: _Box) -> Iterator[str]:
    """A curve; a gap of more than three seconds interrupts it."""
    before = -math.inf
    for at, value in one.values:
        x = box.x + box.width * (at - start) / (end - start)
        y = box.y + box.height * (1 - value / highest)
        yield f"{'L' if at - before <= 3 else 'M'}{x:.1f} {y:.1f}"
        before = at


def _ticks(highest: float) -> list[float]:
    """Four steps from 0 to a round number that is not below the highest value."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    top = next(power * factor for factor in (1, 2, 4, 5, 8, 10) if power * factor >= highest)
    return [top * number / 4 for number in range(5)]


def _unit(panel: Panel) -> str:
    return str(panel["fieldConfig"]["defaults"].get("unit", "short"))


def _shown(value: float, unit: str) -> str:
    """A value as Grafana shows it in this unit."""
    match unit:
        case "percentunit":
            return f"{value:.1%}"
        case "s":
            return _duration(value)
        case "ops":
            return f"{value:.3g}/s"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7_200 else f"{seconds / 3_600:.3g} h"


def _color(panel: Panel, value: float, default: str = _INK) -> str:
    """The colour of the highest threshold that the value reaches."""
    found = default
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            found = _STATES[step["color"]]
    return found


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    weight: int = 400,
    color: str = _INK,
    anchor: str = "start",
    is_escaped: bool = False,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.3g}" font-weight="{weight}" fill="{color}"'
        f' text-anchor="{anchor}">{text if is_escaped else escape(text)}</text>'
    )
