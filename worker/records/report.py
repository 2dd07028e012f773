"""How one object left the batch loop, and how such ends add up to a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

from kube_rewrap.worker.fields import count_of


@dataclass(slots=True)
class Tally:
    """The counts of one page while it is worked on; see BatchReport for what each means."""

    rewritten: int = 0
    current: int = 0
    gone: int = 0
    quarantined: int = 0
    stuck: int = 0
    conflicts: int = 0
    unknown: int = 0
    encryptions: int = 0
    bytes: int = 0
    fresh: int = 0

    def report(self) -> BatchReport:
        """Return what was counted so far."""
        return BatchReport(
            objects=self.rewritten + self.current + self.gone + self.quarantined,
            **{f.name: getattr(self, f.name) for f in fields(self)},
        )


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Counts of objects unless said otherwise; reports add up.

    `objects` is every object that was looked at; `rewritten`, `current`, `gone` and `quarantined`
    are their ends and sum to it. `stuck` is how many of the quarantined can be read but not be
    written, `fresh` how many of the others were written since a campaign last covered them. `conflicts`
    counts swaps that were lost, `unknown` those whose answer was lost, `encryptions` every time a key was
    used to seal, `bytes` what was written. What was done in a page that failed or crashed is not in it:
    that page is read again, and its objects are found current.
    """

    objects: int = 0
    rewritten: int = 0
    current: int = 0
    gone: int = 0
    quarantined: int = 0
    stuck: int = 0
    conflicts: int = 0
    unknown: int = 0
    encryptions: int = 0
    bytes: int = 0
    fresh: int = 0

    def __add__(self, other: BatchReport) -> BatchReport:
        return BatchReport(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(BatchReport)))

    def since(self, before: BatchReport) -> BatchReport:
        """Return what came on top of an earlier report of the same batch; a sweep may have reset some of it."""
        return BatchReport(*(max(0, getattr(self, f.name) - getattr(before, f.name)) for f in fields(BatchReport)))

    def before_sweep(self) -> BatchReport:
        """Return what stays on the account when the batch begins again: what was done, not what was found."""
        return replace(self, objects=self.rewritten + self.gone, current=0, quarantined=0, stuck=0, fresh=0)

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self:
        """Read counts back; a count that is absent is 0, one that is unknown is ignored. Raises ValueError."""
        return cls(**{f.name: count_of(value.get(f.name, 0), f.name) for f in fields(cls)})


NOTHING = BatchReport()
