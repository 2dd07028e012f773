"""Whatever is on record is a value within its bounds or refused by name: records are hostile input, as messages are."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.queue.metrics import WorkerMetrics
from kube_rewrap.worker.queue.plugin_report import PluginReport, reports_in
from kube_rewrap.worker.records import keyspace, ownership
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.audit_chain import Entry, Head
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import FASTEST, NO_OPTIONS, Campaign
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.holder import Handback, Holder
from kube_rewrap.worker.records.kek import Kek, observe
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.request import Request
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.tries import Tries
from kube_rewrap.worker.records.usage import Usage
from kube_rewrap.worker.wrapped import LONGEST_LABEL
from tests.fakes.store import MemoryStore
from tests.properties.record_strategies import (
    BUDGETS,
    CAMPAIGNS,
    CHECKPOINTS,
    KEKS,
    KEYS,
    PLUGIN_REPORTS,
    REQUESTS,
    SCANS,
    TEXTS,
    TIMES,
    TRIES,
    USAGES,
    proof_parts,
)

SPACE = Keyspace()
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
COUNTS = st.integers(1, 1_000)
HOLDERS = st.builds(ownership.who, TEXTS)


RECORDS: dict[str, tuple[Callable[[Mapping[str, object]], object], st.SearchStrategy[Mapping[str, object]]]] = {
    "campaign": (Campaign.from_json, CAMPAIGNS.map(Campaign.to_json)),
    "batch": (Checkpoint.from_json, CHECKPOINTS.map(Checkpoint.to_json)),
    "proof": (ProofPart.from_json, proof_parts().map(ProofPart.to_json)),
    "request": (Request.from_json, REQUESTS.map(Request.to_json)),
    "budget": (Budget.from_json, BUDGETS.map(Budget.to_json)),
    "generation": (
        History.from_json,
        st.builds(
            GenerationRecord,
            TEXTS,
            st.lists(st.tuples(TEXTS, st.lists(KEYS, min_size=1, max_size=2).map(tuple)), max_size=3).map(tuple),
        ).map(lambda one: {**one.to_json(), "former": ["f"], "late_plaintext": ["secrets", "pods"]}),
    ),
    "rotation": (
        Rotation.from_json,
        st.builds(
            Rotation,
            id=st.just("r"),
            step=st.sampled_from(RotationStep),
            because=TEXTS,
            entries=st.just((0, 1)),
            resources=st.just(("secrets",)),
            provider=TEXTS,
            key_name=TEXTS,
            retired=st.lists(KEYS, max_size=2).map(tuple),
            file=HASHES,
            passed=st.lists(st.builds(Passed, st.sampled_from(RotationStep), TIMES, TEXTS), max_size=2).map(tuple),
        ).map(Rotation.to_json),
    ),
    "audit": (
        Entry.from_json,
        st.builds(
            Entry,
            number=COUNTS,
            at=TIMES,
            event=TEXTS,
            campaign=TEXTS,
            actor=TEXTS,
            detail=st.just({"a": 1, "b": None}),
            previous=HASHES,
            hash=HASHES,
        ).map(Entry.to_json),
    ),
    "audit-head": (Head.from_json, st.builds(Head, COUNTS, HASHES).map(Head.to_json)),
    "quarantine": (
        QuarantinedObject.from_json,
        st.just({"key": "/registry/secrets/a/b", "reason": "unknown_bytes", "detail": "why", "mod_revision": 7}),
    ),
    "scan": (Scan.from_json, SCANS.map(Scan.to_json)),
    "tries": (Tries.from_json, TRIES.map(Tries.to_json)),
    "usage": (Usage.from_json, USAGES.map(Usage.to_json)),
    "observer": (
        Observations.from_json,
        st.just({"counts": {"f": 1}, "followed": [{"secrets": [7, "f"]}, {}], "last": {"f": 3}, "since": {"f": 9}}),
    ),
    "keks": (
        Kek.from_json,
        KEKS.map(Kek.to_json),
    ),
    "holder": (Holder.from_json, HOLDERS.map(Holder.to_json)),
    "handback": (Handback.from_json, st.builds(Handback, HOLDERS, TEXTS).map(Handback.to_json)),
    "assumption": (
        Assumption.from_json,
        st.just({"file_hash": "g", "reason": "r", "at": "2026-01-01T00:00:00+00:00"}),
    ),
}

PLACES = {"campaigns": "campaign", "batches": "batch", "proofs": "proof", "requests": "request", "ledger": "budget"}
PLACES |= {"rotations": "rotation", "handbacks": "handback"} | dict.fromkeys(("owner", "leader", "claims"), "holder")


def test_no_kind_of_record_is_left_out() -> None:
    kinds = set(re.findall(r"<state-prefix>/v1/([a-z-]+)", keyspace.__doc__ or ""))
    assert len(kinds) > 15
    assert {PLACES.get(kind, kind) for kind in kinds} == set(RECORDS)


HOSTILE: st.SearchStrategy[object] = st.sampled_from(
    [
        *(None, True, False, -1, 0, 2**63, 10**400, -(10**400), 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan),
        *("", "x" * 200_000, "\ud800", "\udc80", "../../registry", "/registry/secrets/", "\x1b[2J", "9" * 5_000),
        *([], {}, [[]], ["a", "b"], ["b", "a"], [True], [1, -1], {"a": {"b": []}}, [["a", 10**400]], ["/", "\0"]),
    ]
).map(deepcopy)


def places(value: object) -> list[tuple[object, ...]]:
    """The path of everything inside."""
    inner: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path for name, one in inner for path in ((name,), *((name, *rest) for rest in places(one)))]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A record of some kind, of which one to three parts are gone or something else."""
    kind = draw(st.sampled_from(sorted(RECORDS)))
    return kind, draw(mutations_of(RECORDS[kind][1]))


@st.composite
def mutations_of(draw: st.DrawFn, whole: st.SearchStrategy[Mapping[str, object]]) -> dict[str, object]:
    """A JSON object of which one to three parts are gone or something else."""
    record: dict[str, object] = json.loads(json.dumps(draw(whole)))
    for _ in range(draw(st.integers(1, 3))):
        paths = places(record)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        holder: Any = record
        for step in way:
            holder = holder[step]
        if draw(st.integers(0, 5)):
            holder[last] = draw(HOSTILE)
        else:
            del holder[last]
    return record


def leaves(value: object) -> list[object]:
    """All numbers, texts and ranges inside a value of ours."""
    if dataclasses.is_dataclass(value) and not isinstance(value, KeyRange):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    if isinstance(value, Mapping):
        return leaves([*value.keys(), *value.values()])
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, tuple | list | frozenset) else [value]


def _escaped(label: str) -> str:
    """A label as Prometheus' text format has it."""
    return label.replace("\\", "\\\\").replace('"', '\\"')


def is_bounded(leaf: object) -> bool:
    """Whether it is a number of 64 bits, finite; a text that an etcd key can hold; or a range in order."""
    match leaf:
        case int() | float():
            return abs(leaf) <= 2**64
        case str():
            return len(leaf) <= 100_000 and leaf.encode("utf-8", "surrogateescape") is not None
        case KeyRange():
            return leaf.start <= leaf.end
    return leaf is None or isinstance(leaf, bytes)


def require_bounds(value: object) -> None:
    if isinstance(value, Entry):
        value = dataclasses.replace(value, detail={})  # any finite number may stand there: it is only shown
    assert [leaf for leaf in leaves(value) if not is_bounded(leaf)] == []
    options = getattr(value, "options", NO_OPTIONS)
    assert (options.rate == 0 or 1 <= options.rate <= FASTEST, options.priority in range(-100, 101)) == (True, True)


@given(mutated())
def test_a_mutated_record_is_within_its_bounds_or_refused_and_never_breaks(made: tuple[str, dict[str, object]]) -> None:
    kind, record = made
    try:
        value = RECORDS[kind][0](record)
    except (ValueError, RecordError):
        return
    require_bounds(value)


@given(mutations_of(KEKS.map(Kek.to_json)), HASHES, st.floats(0, 2**40), st.floats(0, 86_400))
@example(
    {"provider": "p", "target": "\x1b[2J", "since": 1, "named": "", "named_since": 0, "former": []}, "0" * 64, 2, 1
)
@example({"provider": "p", "target": "", "since": 1, "named": "", "named_since": 0, "former": []}, "0" * 64, 2, 1)
def test_a_mutated_record_of_a_kek_is_refused_or_goes_on_with_hashes_alone(
    record: dict[str, object], key_id_hash: str, now: float, settle: float
) -> None:
    try:
        known = Kek.from_json(record)
    except ValueError:
        return
    named = f"sha256:{key_id_hash}"
    after = observe(known, known.provider, named, now, settle)
    assert Kek.from_json(after.to_json()) == after
    assert named == after.target or after.why_held(settle)
    hashes = [after.target, after.named or after.target, *after.former]
    assert [one for one in hashes if not re.fullmatch("sha256:[0-9a-f]{64}", one)] == []
    assert re.fullmatch("[0-9a-f]{16}", after.fingerprint)


@given(mutations_of(st.builds(lambda *reports: {"plugins": [one.to_json() for one in reports]}, PLUGIN_REPORTS)))
def test_a_mutated_report_of_plugins_is_within_its_bounds_or_counts_for_nothing(done: dict[str, object]) -> None:
    reports = reports_in(done)
    for one in reports:
        require_bounds(one)
        assert PluginReport.from_json(one.to_json()) == one
        assert one.provider.isprintable()
        assert len(one.provider) <= LONGEST_LABEL
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, 0.0, 2)
    for _ in range(2):
        metrics.count({**done, "outcome": "worked"})
    shown = generate_latest(registry).decode()
    assert all(f'provider="{_escaped(one.provider)}"' in shown for one in reports if one.calls)


@given(st.dictionaries(TEXTS, HOSTILE, max_size=3), st.dictionaries(TEXTS, HOSTILE, max_size=3), HOSTILE)
async def test_a_mutated_record_of_the_observer_is_within_its_bounds_or_refused(
    counts: dict[str, object], following: dict[str, object], surveyed: object
) -> None:
    store = MemoryStore()
    record = {"v": 1, "counts": counts, "following": following, "surveyed": surveyed}
    store.put(SPACE.observer, json.dumps(record).encode())
    try:
        require_bounds((await ObserverRecords(store, SPACE).load()).value)
    except RecordError:
        return


@given(mutated(), st.data())
def test_mutated_bytes_are_a_record_or_refused(made: tuple[str, dict[str, object]], data: st.DataObject) -> None:
    raw = bytearray(json.dumps({"v": 1, **made[1]}).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(raw)))
        raw[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"", b"[" * 50, b'{"a":' * 50, b"\xff", b'"', b"\\", b"1e999", b"NaN", b"9" * 5_000])
        )
    try:
        assert decode(b"/k", bytes(raw))["v"] == 1
    except RecordError:
        return


@given(st.binary(max_size=40))
@example(b"[" * 1_000_000)
@example(b'{"a":' * 300_000)
@example(b'"\\"' * 500_000)
@example(b'{"v":1,"a":"' + b"[" * 1_000_000 + b'"}')
@example(b'{"v":1,"a":"' + b"x" * 2_000_000 + b'"}')
@example(b'{"v":true}')
@example('{"v":1}'.encode("utf-16"))
@example(b'{"v":1,"a":Infinity}')
def test_any_bytes_are_a_record_or_refused_and_soon(stored: bytes) -> None:
    try:
        record = decode(b"/k", stored)
    except RecordError:
        return
    assert (record["v"], len(stored) < 1_572_865) == (1, True)
    assert decode(b"/k", encode(record)) == record
