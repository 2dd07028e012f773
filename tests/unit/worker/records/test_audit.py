"""The chain of the audit log: arithmetic, tampering, and appending on the store in memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.errors import RecordError, TemporaryError
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Outcome, Put
from kube_rewrap.worker.records.audit import KEPT, AuditLog, Snapshot
from kube_rewrap.worker.records.audit_chain import BEGINNING, Entry, Head, Scalar, detail_of, find_faults, is_anchored
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.fakes.store import Fault, MemoryStore
from tests.unit.clock import without_waiting

pytestmark = pytest.mark.timeout(20)

SPACE = Keyspace()


def chain(first: int, last: int) -> list[Entry]:
    """Entries that follow each other."""
    entries: list[Entry] = []
    previous = BEGINNING if first == 1 else "e" * 64
    for number in range(first, last + 1):
        entry = Entry(
            number=number,
            at=f"2026-01-01T00:00:{number % 60:02d}+00:00",
            event="e",
            campaign=f"c{number}",
            actor="me",
            detail={},
            previous=previous,
        )
        entries.append(entry.sealed())
        previous = entries[-1].hash
    return entries


def head_of(entries: Sequence[Entry]) -> Head:
    return Head(entries[-1].number, entries[-1].hash, entries[0].number)


def log_on(store: MemoryStore, actor: str = "test") -> AuditLog:
    return AuditLog(store, SPACE, actor)


async def faults_of(store: MemoryStore) -> list[str]:
    verdict, found = await log_on(store).verify(), await log_on(store).snapshot()
    assert list(verdict.faults) == [*found.damaged, *find_faults(found.entries, found.head)]
    assert (verdict.head, verdict.entries) == (found.head, len(found.entries))
    assert [verdict.first, verdict.last] == ([found.entries[0], found.entries[-1]] if found.entries else [None, None])
    return list(verdict.faults)


# ------------------------------------------------------------------------------------------------------------- chain


def test_the_hash_is_what_docs_say_it_is() -> None:
    detail: dict[str, Scalar] = {"because": "grün → \udcff", "n": 1, "yes": True, "none": None}
    entry = Entry(
        number=1,
        at="2026-01-01T00:00:00.000+00:00",
        event="campaign.planned",
        campaign="c",
        actor="rewrap run h:1",
        detail=detail,
        previous=BEGINNING,
    )
    text = (
        '{"actor":"rewrap run h:1","at":"2026-01-01T00:00:00.000+00:00","campaign":"c","detail":'
        r'{"because":"gr\u00fcn \u2192 \udcff","n":1,"none":null,"yes":true},"event":"campaign.planned",'
        f'"number":1,"previous":"{"0" * 64}"}}'
    )
    assert entry.sealed().hash == hashlib.sha256(text.encode()).hexdigest()
    assert Entry.from_json(json.loads(json.dumps(entry.sealed().to_json()))) == entry.sealed()


@pytest.mark.parametrize(
    ("entries", "head", "faults"),
    [
        pytest.param([], Head(), [], id="nothing at all"),
        pytest.param(chain(1, 3), head_of(chain(1, 3)), [], id="from the beginning"),
        pytest.param(chain(7, 9), head_of(chain(7, 9)), [], id="older ones fell out"),
        pytest.param(chain(1, 3)[::-1], head_of(chain(1, 3)), [], id="in any order"),
        pytest.param(
            [],
            Head(3, "a" * 64),
            ["entries 1 to 3 are missing: the head names them, and etcd has none of them"],
            id="gone",
        ),
        pytest.param(
            [*chain(1, 6)[:1], *chain(1, 6)[4:]],
            head_of(chain(1, 6)),
            ["entries 2 to 4 are missing: entry 5 follows instead"],
            id="a gap",
        ),
        pytest.param(
            chain(1, 3)[1:],
            head_of(chain(1, 3)),
            ["entry 1 is missing: entry 2 follows instead"],
            id="the first is missing",
        ),
        pytest.param(
            chain(1, 3)[:1], head_of(chain(1, 3)), ["the log ends at entry 1, and its head names 3"], id="the last are"
        ),
        pytest.param(
            chain(1, 4),
            head_of(chain(1, 2)),
            [
                "entry 3 is newer than the head, which names 2",
                "entry 4 is newer than the head, which names 2",
            ],
            id="the head was set back",
        ),
        pytest.param(
            chain(3, 6),
            head_of(chain(3, 6)[2:]),
            [
                "entry 3 is older than entry 5, the oldest that the head names",
                "entry 4 is older than entry 5, the oldest that the head names",
            ],
            id="the head forgot older ones",
        ),
        pytest.param(
            chain(1, 2), Head(), ["the head is missing, and there are entries up to 2"], id="the head was deleted"
        ),
        pytest.param(
            chain(1, 2),
            replace(head_of(chain(1, 2)), hash="0" * 64),
            ["the head's hash is not that of entry 2"],
            id="its hash",
        ),
        pytest.param(
            [*chain(1, 2), chain(1, 2)[0]], head_of(chain(1, 2)), ["entry 1 exists more than once"], id="doubled"
        ),
        pytest.param(
            [replace(chain(1, 1)[0], previous="f" * 64).sealed()],
            head_of([replace(chain(1, 1)[0], previous="f" * 64).sealed()]),
            ["entry 1 does not follow the entry before it"],
            id="something before the first",
        ),
    ],
)
def test_every_fault_is_a_sentence(entries: list[Entry], head: Head, faults: list[str]) -> None:
    assert find_faults(entries, head) == faults


def test_after_older_ones_fell_out_what_the_first_says_of_its_predecessor_is_not_checked() -> None:
    first = replace(chain(7, 7)[0], previous="a lie").sealed()
    assert find_faults([first], head_of([first])) == []
    assert not is_anchored(head_of([first]))
    assert is_anchored(head_of(chain(1, 1)))


def test_all_faults_are_found_at_once() -> None:
    entries = chain(1, 6)
    entries[1] = replace(entries[1], actor="somebody else")
    del entries[3]
    assert find_faults(entries, replace(head_of(chain(1, 6)), number=7)) == [
        "entry 2 was changed: its hash is not that of its fields",
        "entry 4 is missing: entry 5 follows instead",
        "the log ends at entry 6, and its head names 7",
    ]


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "value",
    [b"key", ["a"], {"a": 1}, object(), float("nan"), float("inf")],
    ids=["bytes", "list", "dict", "object", "nan", "inf"],
)
def test_what_is_no_scalar_does_not_get_in(value: object) -> None:
    with pytest.raises(TypeError, match="key: an audit entry takes texts and finite numbers only"):
        detail_of({"key": value})  # type: ignore[dict-item]


def test_long_texts_are_cut() -> None:
    assert detail_of({"a": "x" * 1_000, "b": "x" * 1_001, "c": 10**30}) == {
        "a": "x" * 1_000,
        "b": "x" * 999 + "…",
        "c": 10**30,
    }


@pytest.mark.parametrize(
    "value",
    [
        {},
        {**chain(1, 1)[0].to_json(), "number": "1"},
        {**chain(1, 1)[0].to_json(), "detail": {"a": ["nested"]}},
        {**chain(1, 1)[0].to_json(), "detail": {"a": float("nan")}},
    ],
)
def test_what_is_no_entry_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(number|detail) "):
        Entry.from_json(value)


@pytest.mark.parametrize(
    "value", [{}, {"number": 0, "hash": "", "oldest": 1}, {"number": 3, "hash": "", "oldest": 4}], ids=str
)
def test_what_is_no_head_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(number|oldest) is "):
        Head.from_json(value)


# --------------------------------------------------------------------------------------------------------- appending


async def test_an_entry_and_the_head_are_written_in_one_transaction() -> None:
    store = MemoryStore()
    entry = await log_on(store, "rewrap run").append("campaign.planned", "c", because="why", objects=3)
    stored, head = await store.get(SPACE.audit_entry(1)), await store.get(SPACE.audit_head)
    assert stored is not None
    assert head is not None
    assert stored.mod_revision == head.mod_revision
    assert entry.actor.startswith("rewrap run ")
    assert await log_on(store).snapshot() == Snapshot(Head(1, entry.hash, 1), (entry,), ())


async def test_the_log_line_holds_all_that_the_hash_covers() -> None:
    with capture_logs() as lines:
        entry = await log_on(MemoryStore()).append("campaign.planned", "c", because="why")
    [line] = lines
    assert (line.pop("event"), line.pop("log_level")) == ("audit", "info")
    assert Entry.from_json({**line, "event": line["entry_event"]}) == entry


async def test_what_is_no_scalar_is_a_fault_of_the_caller_and_writes_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(TypeError):
        await log_on(store).append("e", "c", key=b"bytes")  # type: ignore[arg-type]
    assert await store.count(SPACE.audit) == 0


async def test_the_one_that_falls_out_is_deleted_in_the_same_transaction() -> None:
    store = MemoryStore()
    entries = chain(1, 2)
    for entry in entries:
        store.put(SPACE.audit_entry(entry.number), encode(entry.to_json()))
    last = replace(entries[1], number=KEPT).sealed()
    store.put(SPACE.audit_entry(KEPT), encode(last.to_json()))
    store.put(SPACE.audit_head, encode(Head(KEPT, last.hash, 1).to_json()))
    new = await log_on(store).append("e", "c")
    found = await log_on(store).snapshot()
    assert [entry.number for entry in found.entries] == [2, KEPT, KEPT + 1]
    assert found.head == Head(KEPT + 1, new.hash, 2)


async def test_many_tasks_that_say_the_same_at_once_are_all_heard() -> None:
    store = MemoryStore()
    log = log_on(store)
    written = await asyncio.gather(*(log.append("same", "c") for _ in range(20)))
    assert sorted(entry.number for entry in written) == list(range(1, 21))
    assert await faults_of(store) == []
    assert len((await log.snapshot()).entries) == 20


def after(count: int, outcome: Outcome, store_fates: list[Outcome | None]) -> Fault:
    store_fates += [None] * count + [outcome]
    return lambda _kind, _key: store_fates.pop(0) if store_fates else None


async def test_an_entry_whose_answer_is_lost_stands_once() -> None:
    store = MemoryStore(after(1, Outcome.UNKNOWN, []))
    log = log_on(store)
    written = [await log.append("e", f"c{number}") for number in range(3)]
    assert (await log.snapshot()).entries == tuple(written)
    assert await faults_of(store) == []


class Overtaken(MemoryStore):
    """The answer to the first commit is lost; before anybody can look, another process appends."""

    def __init__(self, *, applied: bool) -> None:
        super().__init__()
        self._applied = applied
        self._first = True

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        if not self._first:
            return await super().commit(expects, changes)
        self._first = False
        if self._applied:
            await super().commit(expects, changes)
        await log_on(self, "another").append("theirs", "")
        return CommitResult(Outcome.UNKNOWN)


@pytest.mark.parametrize(
    ("applied", "events"),
    [
        pytest.param(True, ["ours", "theirs"], id="ours had been applied"),
        pytest.param(False, ["theirs", "ours"], id="ours had not"),
    ],
)
async def test_after_a_lost_answer_and_another_process_ours_stands_once(*, applied: bool, events: list[str]) -> None:
    store = Overtaken(applied=applied)
    ours = await log_on(store).append("ours", "c")
    found = await log_on(store).snapshot()
    assert [entry.event for entry in found.entries] == events
    assert found.entries[events.index("ours")] == ours
    assert await faults_of(store) == []


class Refusing(MemoryStore):
    """Somebody else is always faster."""

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        del expects, changes
        return CommitResult(Outcome.LOST)


@without_waiting
async def test_it_is_not_tried_for_ever() -> None:
    with pytest.raises(TemporaryError, match=r"lost 50 compare-and-swaps of .*audit-head in a row to other writers"):
        await log_on(Refusing()).append("e", "c")


@pytest.mark.parametrize("back_to", [0, 1], ids=["deleted", "set back"])
async def test_a_head_that_is_gone_overwrites_nothing(back_to: int) -> None:
    store = MemoryStore()
    written = [await log_on(store).append("e", f"c{number}") for number in range(2)]
    if back_to:
        store.put(SPACE.audit_head, encode(Head(1, written[0].hash, 1).to_json()))
    else:
        store.delete(SPACE.audit_head)
    with pytest.raises(
        RecordError, match=rf"the audit log's head was deleted or set back: .*/audit/00000000000{back_to + 1} exists"
    ):
        await log_on(store).append("e", "c")
    assert list((await log_on(store).snapshot()).entries) == written


# ---------------------------------------------------------------------------------------------------------- reading


async def test_a_log_of_many_pages_is_read_as_it_was_at_one_moment() -> None:
    store = MemoryStore()
    log = log_on(store)
    for number in range(450):
        await log.append("e", str(number))

    async def appending() -> None:
        for _ in range(20):
            await log.append("later", "")

    found, _ = await asyncio.gather(log.snapshot(), appending())
    assert find_faults(found.entries, found.head) == []
    assert len(found.entries) == found.head.number < 470


async def test_what_is_damaged_is_named_and_the_rest_is_read() -> None:
    store = MemoryStore()
    log = log_on(store)
    entries = [await log.append("e", str(number)) for number in range(4)]
    store.put(SPACE.audit_entry(1), b"not JSON")
    store.put(SPACE.audit_entry(2), encode({"number": 2}))
    store.put(SPACE.audit_entry(3), encode(entries[3].to_json()))
    prefix = "the record /kube-rewrap/v1/audit/00000000000"
    assert await faults_of(store) == [
        f"{prefix}1 is not JSON; restore it, or delete it if it is not ours",
        f"{prefix}2 is damaged: at is no text of at most 100000 characters",
        f"{prefix}3 is damaged: it holds entry 4",
        "entries 1 to 3 are missing: entry 4 follows instead",
    ]
    with pytest.raises(RecordError, match="000000000001 is not JSON"):
        [entry async for entry in log.entries()]


async def test_a_damaged_head_is_named_and_nothing_is_appended() -> None:
    store = MemoryStore()
    log = log_on(store)
    await log.append("e", "c")
    store.put(SPACE.audit_head, encode({"number": 1}))
    fault = "the record /kube-rewrap/v1/audit-head is damaged: hash is no text of at most 100000 characters"
    assert await faults_of(store) == [fault, "the head is missing, and there are entries up to 1"]
    with pytest.raises(RecordError, match=fault):
        await log.append("e", "c")
