"""Whatever is on record is a value within its bounds or refused by name: records are hostile input, as messages are."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy

from hypothesis import example, given
from hypothesis import strategies as st

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Item
from kube_rewrap.worker.records import claims, keyspace, observations, ownership
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.audit_chain import Entry, Head
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import FASTEST, NO_OPTIONS, Campaign
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import Holder
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.quarantined import Quarantined
from kube_rewrap.worker.records.request import Request
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.tries import Tries
from kube_rewrap.worker.records.usage import Usage
from tests.fakes.store import MemoryStore
from tests.properties.record_strategies import (
    BUDGETS,
    CAMPAIGNS,
    CHECKPOINTS,
    KEYS,
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


def read_observer(fields: Mapping[str, object]) -> object:
    return observations._observations(fields, 1)


def read_handback(fields: Mapping[str, object]) -> object:
    return claims._handback(Item(b"/k", b"", 1, 1, 0), dict(fields))


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
        ).map(lambda one: {**one.to_json(), "former": ["f"], "settled": ["secrets", "pods"]}),
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
        Quarantined.from_json,
        st.just({"key": "/registry/secrets/a/b", "reason": "unknown_bytes", "detail": "why", "mod_revision": 7}),
    ),
    "scan": (Scan.from_json, SCANS.map(Scan.to_json)),
    "tries": (Tries.from_json, TRIES.map(Tries.to_json)),
    "usage": (Usage.from_json, USAGES.map(Usage.to_json)),
    "observer": (
        read_observer,
        st.just({"counts": {"f": 1}, "followed": [{"secrets": [7, "f"]}, {}], "last": {"f": 3}, "since": {"f": 9}}),
    ),
    "keks": (
        Kek.from_json,
        st.just(Kek(provider="p", target="t", since=1.0, named="n", named_since=2.0, former=("a", "b")).to_json()),
    ),
    "holder": (Holder.from_json, st.builds(ownership.who, TEXTS)),
    "handback": (read_handback, st.just({"command": "c", "host": "h", "pid": 1, "generation": "g"})),
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
    record = json.loads(json.dumps(draw(RECORDS[kind][1])))
    for _ in range(draw(st.integers(1, 3))):
        paths = places(record)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        holder = record
        for step in way:
            holder = holder[step]
        if draw(st.integers(0, 5)):
            holder[last] = draw(HOSTILE)
        else:
            del holder[last]
    return kind, record


def leaves(value: object) -> list[object]:
    """All numbers, texts and ranges inside a value of ours."""
    if dataclasses.is_dataclass(value) and not isinstance(value, KeyRange):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    if isinstance(value, Mapping):
        return leaves([*value.keys(), *value.values()])
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, tuple | list | frozenset) else [value]


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


@given(st.dictionaries(TEXTS, HOSTILE, max_size=3), st.dictionaries(TEXTS, HOSTILE, max_size=3), HOSTILE)
async def test_a_mutated_record_of_the_observer_is_within_its_bounds_or_refused(
    counts: dict[str, object], following: dict[str, object], surveyed: object
) -> None:
    store = MemoryStore()
    record = {"v": 1, "counts": counts, "following": following, "surveyed": surveyed}
    store.put(SPACE.observer, json.dumps(record).encode())
    try:
        require_bounds(dataclasses.asdict(await observations.load(store, SPACE)))
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
