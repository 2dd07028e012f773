"""A batch: a key range of one resource under one generation, and its checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.fields import MOST_BATCHES, Fields, count_of, members_of, text_of
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import Reason, reason_of


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """What one worker does under one claim.

    `number` orders the batches of a campaign from 0. `namespaces` pairs each namespace that the range touches
    ("" = cluster scope) with the number of objects counted there at planning. `sweep` is the number, from 1,
    of the campaign's pass over its ranges.
    """

    campaign: str
    number: int
    resource: str
    range: KeyRange
    generation: str
    namespaces: tuple[tuple[str, int], ...] = ()
    sweep: int = 1

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

    def to_json(self) -> dict[str, object]:
        """Return the JSON form that records and messages hold. It holds no secret."""
        return {
            "campaign": self.campaign,
            "number": self.number,
            "resource": self.resource,
            "range": self.range.to_json(),
            "generation": self.generation,
            "namespaces": [list(pair) for pair in self.namespaces],
            "sweep": self.sweep,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> BatchSpec:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            fields.name("campaign"),
            fields.count("number", most=MOST_BATCHES),
            fields.text("resource"),
            fields.one("range", KeyRange.from_json),
            fields.text("generation"),
            fields.each("namespaces", _namespace_count),
            fields.count("sweep", 1),
        )


def _namespace_count(pair: object) -> tuple[str, int]:
    name, count = members_of(pair, "a namespace of a batch", 2)
    return text_of(name, "a namespace of a batch"), count_of(count, "a namespace of a batch")


class BatchState(StrEnum):
    """The state of a batch. Only `done` is final; a `parked` batch waits for the next sweep or campaign."""

    PENDING = "pending"
    RUNNING = "running"
    PARKED = "parked"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A batch and its progress: every object with a key below `cursor` has reached its end in this sweep.

    `attempts` counts how often a worker began or resumed the batch, `stalled` how many of these attempts came
    since the cursor last moved; `tried_at` is the time of the last one (seconds since 1970). `because` is the
    reason why the last failed attempt ended. `reasons` counts all objects that the present sweep put in
    quarantine, also those without a quarantine record.
    """

    spec: BatchSpec
    state: BatchState = BatchState.PENDING
    cursor: bytes = b""
    report: BatchReport = field(default_factory=BatchReport)
    attempts: int = 0
    stalled: int = 0
    tried_at: float = 0.0
    because: str = ""
    reasons: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def rest(self) -> KeyRange:
        """The part of the range from the cursor on."""
        return self.spec.range.since(self.cursor)

    def begun(self, spec: BatchSpec, now: float) -> Checkpoint:
        """Return the checkpoint of one more attempt; a `spec` of a later sweep restarts at the start of the range."""
        attempt = replace(self, spec=spec, state=BatchState.RUNNING, attempts=self.attempts + 1, tried_at=now)
        if spec.sweep == self.spec.sweep:
            return replace(attempt, stalled=self.stalled + 1)
        return replace(attempt, cursor=b"", report=self.report.before_sweep(), stalled=1, because="", reasons={})

    def advanced(self, cursor: bytes, report: BatchReport, reasons: Iterable[Reason] = ()) -> Checkpoint:
        """Return the checkpoint after one more page; `reasons` has one member per object put in quarantine."""
        counts = Counter(self.reasons)
        counts.update(reasons)
        moved = replace(self, state=BatchState.RUNNING, cursor=cursor, report=self.report + report)
        return replace(moved, stalled=0, because="", reasons=dict(counts))

    def failed(self, because: str, *, counts: bool) -> Checkpoint:
        """Return the checkpoint after a failure. Without `counts`, the attempt does not count as stalled."""
        return replace(self, because=because, stalled=self.stalled - (0 if counts else min(1, self.stalled)))

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "spec": self.spec.to_json(),
            "state": self.state.value,
            "cursor": key_text(self.cursor),
            "report": self.report.to_json(),
            "attempts": self.attempts,
            "stalled": self.stalled,
            "tried_at": self.tried_at,
            "because": self.because,
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Checkpoint:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            BatchSpec.from_json(fields.mapping("spec")),
            fields.choice("state", BatchState),
            fields.key("cursor"),
            BatchReport.from_json(fields.mapping("report")),
            fields.count("attempts"),
            fields.count(fields.either("stalled", "fruitless")),
            fields.number("tried_at"),
            fields.text("because"),
            reasons_of(fields.counts("reasons")) if fields.has("reasons") else {},  # absent in older records
        )


def reasons_of(counts: Mapping[str, int]) -> dict[Reason, int]:
    """Read counts by reason. Raises ValueError for an unknown reason."""
    return {reason_of(reason): count for reason, count in counts.items()}


def quarantined_by(batches: Iterable[Checkpoint]) -> dict[tuple[str, Reason], int]:
    """Return how many objects are in quarantine, by resource and reason; includes objects without a record."""
    counts: Counter[tuple[str, Reason]] = Counter()
    for batch in batches:
        counts.update({(batch.spec.resource, reason): count for reason, count in batch.reasons.items()})
    return dict(sorted(counts.items()))
