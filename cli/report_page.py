"""The HTML page of a report: one file, no script, nothing loaded. Jinja2 escapes every value of the document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TEMPLATE = "report_page.html"


def page_of(document: dict[str, object]) -> str:
    """Return the page of a document of `rewrap report`, in ASCII: other characters are written as references."""
    page = _template().render(document) + "\n"
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


@cache
def _template() -> Template:
    # As text and not by a loader: the package may be a link, and the page includes no other file.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "moment": _moment, "chance": _chance, "words": _words, "prose": _prose}
    return environment.from_string(Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8"))


def _number(value: object) -> str:
    """Return a number with separators; a dash where it is not known."""
    return "–" if value is None else f"{value:,}"


def _moment(text: str | None) -> str:
    """Return a time of a record (ISO 8601) to the second, in UTC; a text that is none as it is."""
    try:
        return f"{datetime.fromisoformat(text or '').astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError):
        return text or "not on record"


def _chance(value: float | None) -> str:
    """Return a probability with its power of ten; a dash where there is none."""
    if value is None:
        return "–"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(_RAISED)}" if value else "0"


def _prose(text: str) -> Markup:
    """Return a sentence with its commands, which stand between backticks, as code. Everything in it is escaped."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped just before


def _words(text: str) -> str:
    """Return an identifier as words."""
    return text.replace("_", " ").replace("-", " ")
