"""A process that holds a lock, and a worker that can't take one: the values of their records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kube_rewrap.worker.fields import text_of
from kube_rewrap.worker.records.form import Count, Flat, Form, within

UNNAMED = "a process whose record can't be read"
"""A holder, in sentences, whose record is unreadable."""

_LONGEST = 300


def _printable(value: object, what: str) -> str:
    text = text_of(value, what, _LONGEST)
    if not text.isprintable():
        raise ValueError(f"{what} holds characters that control a terminal")
    return text


Printable = Annotated[str, _printable]


@dataclass(frozen=True, slots=True)
class Holder(Form):
    """A process, as locks and handbacks name it; `since` is the time of the record (ISO 8601, UTC)."""

    command: Printable
    host: Printable
    pid: Count
    since: Printable

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        return f"{self.command} on {self.host}, pid {self.pid}, since {self.since}"


@dataclass(frozen=True, slots=True)
class Handback(Form):
    """A worker that handed a batch back because it holds another configuration; `generation` is that one's hash."""

    worker: Flat[Holder]
    generation: Annotated[str, within(most=_LONGEST)]

    def __str__(self) -> str:
        return f"the worker {self.worker.host}:{self.worker.pid} holds the configuration {self.generation}"
