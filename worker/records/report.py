"""Counts of the objects of a batch by their end: current, rewritten, gone or quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter

from kube_rewrap.worker.records.form import Count, Form, Later

_ENDS = ("rewritten", "current", "gone", "quarantined")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport(Form):
    """Counts of objects unless stated otherwise; reports add up.

    `objects` counts all objects that the batch processed; `rewritten`, `current`, `gone` and `quarantined` are their
    ends and sum to it. `stuck` counts the quarantined objects that are readable but can't be written; `fresh` those of
    the others that were written since a campaign last covered them, without those whose key a KMS plugin refused.
    `conflicts` counts lost swaps, `unknown` swaps with a lost answer, `encryptions` each sealing under a key, `bytes`
    the bytes written.
    A report does not contain the work on a page that failed or crashed: the worker reads that page again, and finds
    its rewritten objects current.
    """

    objects: Later[Count] = 0
    rewritten: Later[Count] = 0
    current: Later[Count] = 0
    gone: Later[Count] = 0
    quarantined: Later[Count] = 0
    stuck: Later[Count] = 0
    conflicts: Later[Count] = 0
    unknown: Later[Count] = 0
    encryptions: Later[Count] = 0
    bytes: Later[Count] = 0
    fresh: Later[Count] = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> BatchReport:
        """Return the report of these counts, by field; `objects` is the sum of the four ends."""
        return cls(objects=sum(counts.get(end, 0) for end in _ENDS), **counts)

    @classmethod
    def total(cls, reports: Iterable[BatchReport]) -> BatchReport:
        """Return the sum of many reports, with no report for each of them in between."""
        every = tuple(reports)
        return cls(**{field.name: sum(map(attrgetter(field.name), every)) for field in fields(cls)})

    def __add__(self, other: BatchReport) -> BatchReport:
        return BatchReport(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(BatchReport)})

    def since(self, before: BatchReport) -> BatchReport:
        """Return the counts less those of an earlier report of the same batch; 0 where a new sweep has reset one."""
        return BatchReport(
            **{f.name: max(0, getattr(self, f.name) - getattr(before, f.name)) for f in fields(BatchReport)}
        )

    def before_sweep(self) -> BatchReport:
        """Return what a new sweep starts from: work done stays counted; `current` and quarantined objects do not."""
        return replace(self, objects=self.rewritten + self.gone, current=0, quarantined=0, stuck=0, fresh=0)


NOTHING = BatchReport()
