"""Our own records: read tolerantly, refused by version, damage named by key, outcomes known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.errors import FencedError, RecordChangedError, RecordError, TemporaryError
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Outcome, Put
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import KEPT, Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.scans import Scans
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Reason
from tests.fakes.store import Fault, MemoryStore

pytestmark = pytest.mark.timeout(20)

KEY = b"/kube-rewrap/v1/campaigns/c"
SPACE = Keyspace()


def losing(*outcomes: Outcome | None) -> Fault:
    left = list(outcomes)
    return lambda _kind, _key: left.pop(0) if left else None


def campaign(name: str, state: CampaignState = CampaignState.RUNNING) -> Campaign:
    return Campaign(
        id=name,
        state=state,
        generation="sha256:0",
        scope=Scope(("secrets",)),
        batches=1,
        planned_at="2024-01-01T00:00:00+00:00",
        because="why",
    )


def checkpoint(number: int = 0, name: str = "c") -> Checkpoint:
    return Checkpoint(
        spec=BatchSpec(
            campaign=name, number=number, resource="secrets", range=KeyRange(b"a", b"b"), generation="sha256:0"
        )
    )


# ------------------------------------------------------------------------------------------------------------ codec


def test_a_record_is_compact_sorted_json_with_its_version() -> None:
    assert encode({"b": 1, "a": ["x"]}) == b'{"a":["x"],"b":1,"v":1}'


def test_unknown_fields_of_the_same_version_are_kept_out_of_nobodys_way() -> None:
    assert decode(KEY, b'{"v": 1, "a": 2, "later": true}') == {"v": 1, "a": 2, "later": True}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(b"", "is not JSON", id="empty"),
        pytest.param(b"k8s\x00\xff", "is not JSON", id="bytes"),
        pytest.param(b'{"v": 1', "is not JSON", id="cut off"),
        pytest.param(b"[1]", "is of a version that this program does not know", id="a list"),
        pytest.param(b"{}", "is of a version that this program does not know", id="no version"),
        pytest.param(b'{"v": 2}', "is of a version that this program does not know", id="a later version"),
        pytest.param(b'{"v": "1"}', "is of a version that this program does not know", id="a version in words"),
    ],
)
def test_what_is_no_record_is_refused_by_name(value: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=f"^the record /kube-rewrap/v1/campaigns/c {message}"):
        decode(KEY, value)


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([None], id="an answer at once"),
        pytest.param([Outcome.UNKNOWN], id="applied, answer lost"),
    ],
)
async def test_a_write_whose_answer_is_lost_is_found_again(faults: list[Outcome | None]) -> None:
    store = MemoryStore(losing(*faults))
    revision = await record.write(store, KEY, {"a": 1}, 0)
    item = await store.get(KEY)
    assert item is not None
    assert (item.mod_revision, item.version) == (revision, 1)


async def test_a_write_over_another_version_is_fenced() -> None:
    store = MemoryStore()
    first = await record.write(store, KEY, {"a": 1}, 0)
    await record.write(store, KEY, {"a": 2}, first)
    with pytest.raises(RecordChangedError, match=r"/kube-rewrap/v1/campaigns/c was changed by another process"):
        await record.write(store, KEY, {"a": 3}, first)
    assert issubclass(RecordChangedError, FencedError)


async def test_a_write_without_its_guard_is_fenced_and_changes_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(RecordChangedError):
        await record.write(store, KEY, {"a": 1}, 0, guards=[Expect(SPACE.owner, 1, created=True)])
    assert await store.get(KEY) is None


async def test_what_goes_along_is_written_in_the_same_transaction() -> None:
    store = MemoryStore()
    revision = await record.write(store, KEY, {"a": 1}, 0, along=[Put(KEY + b"/x", b"y")])
    along = await store.get(KEY + b"/x")
    assert along is not None
    assert along.mod_revision == revision


class Vanishing(MemoryStore):
    """Every commit gets lost on its way."""

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        del expects, changes
        return CommitResult(Outcome.UNKNOWN)


async def test_a_write_that_never_arrives_is_temporary_and_not_on_record() -> None:
    store = Vanishing()
    with pytest.raises(TemporaryError, match="etcd never confirmed the write of /kube-rewrap/v1/campaigns/c"):
        await record.write(store, KEY, {"a": 1}, 0)
    assert await store.get(KEY) is None


async def test_all_records_of_a_range_are_read_page_by_page() -> None:
    store = MemoryStore()
    for number in range(450):
        await record.write(store, KEY + b"%04d" % number, {"n": number}, 0)
    found = read_items(store, KeyRange.of_prefix(KEY))
    assert [decode(item.key, item.value)["n"] async for item in found] == list(range(450))


# ------------------------------------------------------------------------------------------------------- checkpoints


async def test_a_batch_is_saved_over_the_version_that_was_read() -> None:
    checkpoints = Checkpoints(MemoryStore(), SPACE)
    first = await checkpoints.save(Stored(checkpoint()))
    moved = checkpoint().advanced(b"a\0", BatchReport(objects=1, rewritten=1))
    second = await checkpoints.save(first.holding(moved))
    assert await checkpoints.load("c", 0) == second == Stored(moved, second.revision)
    with pytest.raises(RecordChangedError):
        await checkpoints.save(first)


async def test_a_missing_batch_is_named() -> None:
    with pytest.raises(RecordError, match="/kube-rewrap/v1/batches/c/00000003 is missing"):
        await Checkpoints(MemoryStore(), SPACE).load("c", 3)


async def test_batches_come_in_order_and_a_look_at_changes_has_only_what_was_written_since() -> None:
    checkpoints = Checkpoints(MemoryStore(), SPACE)
    for number in (10, 2, 1):
        await checkpoints.save(Stored(checkpoint(number)))
    await checkpoints.save(Stored(checkpoint(5, "other")))
    everything = [stored async for stored in checkpoints.all("c")]
    assert [stored.value.spec.number for stored in everything] == [1, 2, 10]
    newest = max(stored.revision for stored in everything)
    changed, following = await checkpoints.changed("c", newest)
    assert (list(changed), following) == ([1], newest + 2)  # another campaign's batch was written after it
    assert await checkpoints.changed("c", following) == ({}, following)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param({}, "spec is no object", id="no fields"),
        pytest.param(
            {**checkpoint().to_json(), "state": "lost"}, "state is none of pending, run", id="a strange state"
        ),
        pytest.param(
            {**checkpoint().to_json(), "spec": {}}, "campaign is not of the required form", id="no batch in it"
        ),
    ],
)
async def test_a_damaged_batch_is_named(value: dict[str, object], fault: str) -> None:
    store = MemoryStore()
    store.put(SPACE.batch("c", 0), encode(value))
    with pytest.raises(RecordError, match=f"/kube-rewrap/v1/batches/c/00000000 is damaged: {fault}"):
        await Checkpoints(store, SPACE).load("c", 0)


def test_the_rest_of_a_batch_begins_at_its_cursor() -> None:
    assert checkpoint().rest == KeyRange(b"a", b"b")
    moved = checkpoint().advanced(b"ab\0", BatchReport())
    assert (moved.rest, moved.state) == (KeyRange(b"ab\0", b"b"), BatchState.RUNNING)


# --------------------------------------------------------------------------------------------------------- campaigns


async def test_a_campaign_that_can_be_seen_has_all_its_batches() -> None:
    store = MemoryStore()
    campaigns = Campaigns(store, SPACE)
    created = await campaigns.create(campaign("c"), [checkpoint(0), checkpoint(1)])
    assert await campaigns.all() == [created]
    batches = [stored async for stored in Checkpoints(store, SPACE).all("c")]
    assert all(stored.revision < created.revision for stored in batches)
    assert len(batches) == 2


async def test_a_damaged_campaign_is_named_once_and_costs_itself_alone() -> None:
    store = MemoryStore()
    store.put(SPACE.campaign("c"), encode({"id": "c"}))
    store.put(SPACE.campaign("d"), encode(campaign("d").to_json()))
    with pytest.raises(RecordError, match="/kube-rewrap/v1/campaigns/c is damaged: state is none of running"):
        await Campaigns(store, SPACE).get("c")
    with capture_logs() as logs:
        for _ in range(3):
            assert [stored.value.id for stored in await Campaigns(store, SPACE).all()] == ["d"]
    assert [(one["event"], "campaigns/c is damaged" in one["because"]) for one in logs] == [("record.unreadable", True)]


async def test_old_campaigns_are_forgotten_with_all_that_is_theirs() -> None:
    store = MemoryStore()
    campaigns = Campaigns(store, SPACE)
    names = [f"{number:02d}" for number in range(KEPT + 3)]
    for name in names:
        await campaigns.create(campaign(name, CampaignState.COMPLETE), [checkpoint(0, name)])
        await QuarantineRecords(store, SPACE, name).add([QuarantinedObject(b"/k", Reason.KMS_REFUSED, "", 1)])
    await campaigns.create(campaign("running"), [])
    await campaigns.forget_old()
    assert [stored.value.id for stored in await campaigns.all()] == [*names[3:], "running"]
    for name in names:
        left = await store.count(SPACE.batches(name)), await store.count(SPACE.quarantine(name))
        assert left == ((1, 1) if name in names[3:] else (0, 0))


async def test_records_of_no_campaign_are_deleted_and_names_that_only_look_alike_cost_no_kept_one_anything() -> None:
    store = MemoryStore()
    campaigns = Campaigns(store, SPACE)
    for name in ("b", "ba", "d"):
        await campaigns.create(campaign(name), [checkpoint(0, name)])
    for name in ("a", "b-", "c", "e"):
        await Checkpoints(store, SPACE).create([checkpoint(number, name) for number in range(3)])
    store.put(SPACE.campaign("b/x"), b"no campaign of ours")
    store.put(SPACE.campaign("damaged"), b"no JSON")
    store.put(SPACE.batch("damaged", 0), b"kept with its campaign")
    store.put(SPACE.batches("b").start[:-1], b"a key that ends where the name of a kept campaign does")
    await campaigns.forget_old()
    left = {name: await store.count(SPACE.batches(name)) for name in ("a", "b", "b-", "ba", "c", "d", "damaged", "e")}
    assert left == {"a": 0, "b": 1, "b-": 0, "ba": 1, "c": 0, "d": 1, "damaged": 1, "e": 0}


class KeysRead(MemoryStore):
    """Counts the keys in answers without values."""

    sent = 0

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        found, left = await super().keys(keys, limit)
        self.sent += len(found)
        return found, left


async def test_a_clean_up_reads_no_key_of_the_campaigns_that_it_keeps_or_deletes_by_name() -> None:
    store = KeysRead()
    campaigns = Campaigns(store, SPACE)
    for number in range(KEPT + 3):
        name = f"{number:02d}"
        await campaigns.create(campaign(name, CampaignState.COMPLETE), [checkpoint(each, name) for each in range(20)])
    await campaigns.forget_old()
    assert (len(await campaigns.all()), store.sent) == (KEPT, 0)
    await Checkpoints(store, SPACE).create([checkpoint(each, "lost") for each in range(20)])
    await campaigns.forget_old()
    assert (await store.count(SPACE.batches("lost")), store.sent) == (0, 20)


async def test_however_many_repairs_there_are_they_push_no_other_campaign_out() -> None:
    campaigns = Campaigns(MemoryStore(), SPACE)
    for number, state in enumerate((CampaignState.COMPLETE, CampaignState.INCOMPLETE)):
        await campaigns.create(campaign(f"0{number}", state), [])
    for number in range(KEPT + 3):
        repair = replace(campaign(f"1{number:02d}", CampaignState.COMPLETE), options=CampaignOptions(repair=True))
        await campaigns.create(repair, [])
    await campaigns.forget_old()
    kept = [stored.value.id for stored in await campaigns.all()]
    assert kept == ["00", "01", *[f"1{number:02d}" for number in range(3, KEPT + 3)]]


async def test_however_many_narrow_campaigns_there_are_the_last_over_everything_stays() -> None:
    campaigns = Campaigns(MemoryStore(), SPACE)
    # The first was over everything of a configuration that governed more.
    for name, resources, whole in (("00", ("a", "b"), True), ("01", ("a",), True), ("02", ("a", "b"), False)):
        complete = replace(campaign(name, CampaignState.COMPLETE), scope=Scope(resources), whole=whole)
        await campaigns.create(complete, [])
    for number in range(KEPT):
        narrow = replace(campaign(f"1{number:02d}", CampaignState.COMPLETE), scope=Scope(("a",), ("default",)))
        await campaigns.create(narrow, [])
    await campaigns.forget_old()
    kept = [stored.value.id for stored in await campaigns.all()]
    assert kept == ["01", *[f"1{number:02d}" for number in range(KEPT)]]


async def test_a_damaged_record_of_a_scan_is_none_and_is_written_over() -> None:
    store = MemoryStore()
    scans = Scans(store, SPACE)
    scan = Scan(generation="sha256:0", revision=7, at=1_000.0, objects=9, stale=1, is_clean=False)
    for damage in (b"no JSON", encode({"stale": -1}), encode({**scan.to_json(), "at": 10**400})):
        store.put(SPACE.scan, damage)
        assert await scans.load() is None
        await scans.replace(scan)
        assert await scans.load() == scan


async def test_a_campaign_is_saved_over_the_version_that_was_read() -> None:
    campaigns = Campaigns(MemoryStore(), SPACE)
    first = await campaigns.create(campaign("c"), [])
    await campaigns.save(first)
    with pytest.raises(RecordChangedError):
        await campaigns.save(Stored(campaign("c"), first.revision))


# -------------------------------------------------------------------------------------------------------- quarantine


def entries(count: int) -> list[QuarantinedObject]:
    return [
        QuarantinedObject(b"/registry/secrets/\xff/%d" % number, Reason.KMS_REFUSED, "why", number)
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
async def test_what_is_put_into_quarantine_is_read_back(count: int) -> None:
    quarantine = QuarantineRecords(MemoryStore(), SPACE, "c")
    await quarantine.add(entries(count))
    found = [one async for one in quarantine.all()]
    assert sorted(found, key=lambda one: one.mod_revision) == entries(count)


async def test_an_object_stands_in_quarantine_once() -> None:
    quarantine = QuarantineRecords(MemoryStore(), SPACE, "c")
    await quarantine.add([QuarantinedObject(b"/k", Reason.KMS_REFUSED, "first", 1)])
    await quarantine.add([QuarantinedObject(b"/k", Reason.CONTENDED, "second", 2)])
    assert [one async for one in quarantine.all()] == [QuarantinedObject(b"/k", Reason.CONTENDED, "second", 2)]


async def test_a_new_sweep_empties_the_quarantine_of_its_campaign_alone() -> None:
    store = MemoryStore()
    campaigns = Campaigns(store, SPACE)
    stored = await campaigns.create(campaign("c"), [])
    mine, other = QuarantineRecords(store, SPACE, "c"), QuarantineRecords(store, SPACE, "c2")
    await mine.add(entries(3))
    await other.add(entries(2))
    swept = await campaigns.save_without_quarantine(replace(stored, value=replace(stored.value, sweeps=2)))
    assert [one async for one in mine.all()] == []
    assert len([one async for one in other.all()]) == 2
    assert await campaigns.all() == [swept]


async def test_a_lost_answer_is_asked_again() -> None:
    quarantine = QuarantineRecords(MemoryStore(losing(Outcome.UNKNOWN)), SPACE, "c")
    await quarantine.add(entries(1))
    assert [one async for one in quarantine.all()] == entries(1)


async def test_without_the_lock_nothing_is_put_into_quarantine() -> None:
    store = MemoryStore()
    quarantine = QuarantineRecords(store, SPACE, "c", [Expect(SPACE.owner, 1, created=True)])
    with pytest.raises(FencedError, match="the lock was lost"):
        await quarantine.add(entries(1))
    assert await store.count(SPACE.quarantine("c")) == 0


async def test_a_damaged_entry_is_named() -> None:
    store = MemoryStore()
    store.put(SPACE.quarantined("c", b"/k"), encode({"key": "/k"}))
    with capture_logs() as logs:
        assert [one async for one in QuarantineRecords(store, SPACE, "c").all()] == []
    assert "is damaged" in logs[0]["because"]
