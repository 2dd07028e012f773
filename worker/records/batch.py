"""A batch: a key range of one resource under one generation, and its checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.fields import MOST_BATCHES, count_of, members_of, text_of
from kube_rewrap.worker.records.form import Count, Form, Key, Later, Name, Named, Text, Time, whole
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import Reason


def _namespace_count(pair: object, what: str) -> tuple[str, int]:
    name, count = members_of(pair, what, 2)
    return text_of(name, what), count_of(count, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec(Form):
    """What one worker does under one claim.

    `number` orders the batches of a campaign from 0. `namespaces` pairs each namespace that the range touches
    ("" = cluster scope) with the number of objects counted there at planning. `sweep` is the number, from 1,
    of the campaign's pass over its ranges.
    """

    campaign: Name
    number: Annotated[int, whole(most=MOST_BATCHES)]
    resource: Text
    range: KeyRange
    generation: Text
    namespaces: tuple[Annotated[tuple[str, int], _namespace_count], ...] = ()
    sweep: Annotated[int, whole(least=1)] = 1

    @property
    def objects(self) -> int:
        """Objects in the range when the batch was planned: an estimate, never a bound."""
        return sum(count for _, count in self.namespaces)

    def log_context(self) -> dict[str, object]:
        """Return the fields that every log line about this batch carries."""
        names = [name for name, _ in self.namespaces]
        return {
            "campaign": self.campaign,
            "batch": self.number,
            "resource": self.resource,
            "namespace": names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}" if names else "",
        }


class BatchState(StrEnum):
    """The state of a batch. Only `done` is final; a `parked` batch waits for the next sweep or campaign."""

    PENDING = "pending"
    RUNNING = "running"
    PARKED = "parked"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Form):
    """A batch and its progress: every object with a key below `cursor` has reached its end in this sweep.

    `attempts` counts how often a worker began or resumed the batch, `stalled` how many of these attempts came
    since the cursor last moved; `tried_at` is the time of the last one (seconds since 1970). `because` is the
    reason why the last failed attempt ended, `by_plugin` whether the worker's KMS plugin failed then. `reasons` counts
    all objects that the present sweep put in quarantine, also those without a quarantine record.
    """

    spec: BatchSpec
    state: BatchState = BatchState.PENDING
    cursor: Key = b""
    report: BatchReport = field(default_factory=BatchReport)
    attempts: Count = 0
    stalled: Annotated[Count, Named(former="fruitless")] = 0
    tried_at: Time = 0.0
    because: Text = ""
    by_plugin: Later[bool] = False
    reasons: Later[Mapping[Reason, Count]] = field(default_factory=dict)

    @property
    def rest(self) -> KeyRange:
        """The part of the range from the cursor on."""
        return self.spec.range.since(self.cursor)

    def begun(self, spec: BatchSpec, now: float) -> Checkpoint:
        """Return the checkpoint of one more attempt; a `spec` of a later sweep restarts at the start of the range."""
        attempt = replace(self, spec=spec, state=BatchState.RUNNING, attempts=self.attempts + 1, tried_at=now)
        if spec.sweep == self.spec.sweep:
            return replace(attempt, stalled=self.stalled + 1)
        return replace(
            attempt, cursor=b"", report=self.report.before_sweep(), stalled=1, because="", by_plugin=False, reasons={}
        )

    def advanced(self, cursor: bytes, report: BatchReport, reasons: Iterable[Reason] = ()) -> Checkpoint:
        """Return the checkpoint after one more page; `reasons` has one member per object put in quarantine."""
        counts = Counter(self.reasons)
        counts.update(reasons)
        moved = replace(self, state=BatchState.RUNNING, cursor=cursor, report=self.report + report)
        return replace(moved, stalled=0, because="", by_plugin=False, reasons=dict(counts))

    def failed(self, because: str, *, counts: bool, by_plugin: bool = False) -> Checkpoint:
        """Return the checkpoint after a failure. Without `counts`, the attempt does not count as stalled."""
        stalled = self.stalled - (0 if counts else min(1, self.stalled))
        return replace(self, because=because, by_plugin=by_plugin, stalled=stalled)


def quarantined_by(batches: Iterable[Checkpoint]) -> dict[tuple[str, Reason], int]:
    """Return how many objects are in quarantine, by resource and reason; includes objects without a record."""
    counts: Counter[tuple[str, Reason]] = Counter()
    for batch in batches:
        counts.update({(batch.spec.resource, reason): count for reason, count in batch.reasons.items()})
    return dict(sorted(counts.items()))
