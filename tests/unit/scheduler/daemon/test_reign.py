"""What a leader makes of a file that is old, of one that means the same, and of an operator's word that came before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    KeyedProvider,
    Provider,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import NO_TARGETS, Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.campaigns.pausing import Pressure, judge_rest
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.daemon.controllers import Controllers, Kept, Term
from kube_rewrap.scheduler.dispatch.local import Engine
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.probes import LeaderProbe
from kube_rewrap.worker.errors import OutdatedError, StoppedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Page, Put
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Pause, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Origin, Request, RequestKind, RequestState, start_request
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.scans import Scans
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.records.usage import Haste, Usage
from kube_rewrap.worker.records.usages import Usages
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.test_service import NEW, OLD, PLAIN, seal
from tests.unit.scheduler.test_reign_observer import LEADER, Away, NobodyKnows

pytestmark = pytest.mark.timeout(20)

KEYSPACE = Keyspace("/kube-rewrap")
NOW = "2026-01-01T00:00:00+00:00"


@dataclass
class Cluster:
    """A registry in memory with one object under the old key, and who may lead."""

    store: MemoryStore
    guard: Expect

    @property
    def campaigns(self) -> Campaigns:
        return Campaigns(self.store, KEYSPACE)

    @property
    def requests(self) -> Requests:
        return Requests(self.store, KEYSPACE)

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    names: tuple[str, ...] = ("secrets",)

    def shown(self) -> dict[str, float]:
        """What was shown of scans and campaigns by the leader, when it is asked."""
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if any(word in sample.name for word in ("scan", "objects", "campaign", "proof", "rotation_due"))
        }

    def reign(self, name: str, *providers: Provider, brake: Brake, before: str = "") -> Controllers:
        configuration = EncryptionConfiguration((ResourceEntry(self.names, providers),))
        generation = Generation(name, configuration, "test")
        engine = Engine(self.store, Settings(), generation, LocalPace(0))
        one = Service(Settings(), generation, Layout(), engine)
        file = ConfigurationFile("/nowhere", "/nowhere")
        self.registry = CollectorRegistry()
        metrics = SchedulerMetrics(self.registry)
        metrics.configured(name)
        term = Term(self.guard, brake, Kept(metrics), file, NobodyKnows(), lambda: None, before)
        return Controllers(Settings(), one, Away(Settings()), term)

    @asynccontextmanager
    async def under(self, name: str, *providers: Provider, before: str = "") -> AsyncIterator[Controllers]:
        """While a leader reigns under this file, from its having taken it for the one in force."""
        brake = Brake()
        reign = self.reign(name, *providers, brake=brake, before=before)
        task = asyncio.create_task(reign.run())
        await until(self.in_force(name), task)
        try:
            yield reign
        finally:
            brake.pull(StoppedError("enough"))
            with pytest.raises(StoppedError):
                await task

    def in_force(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            stored = await Generations(self.store, KEYSPACE).load()
            return stored is not None and stored.value.generation.hash == name

        return holds

    async def campaign(self, states: CampaignState | set[CampaignState], *others: str) -> Campaign:
        """Waits for a campaign in such a state that is none of the others."""
        wanted = states if isinstance(states, set) else {states}
        found: list[Campaign] = []

        async def holds() -> bool:
            all_ = [one.value for one in await self.campaigns.all()]
            found[:] = [one for one in all_ if one.state in wanted and one.id not in others]
            return bool(found)

        await until(holds)
        return found[-1]


async def until(condition: Callable[[], Awaitable[bool]], task: asyncio.Task[None] | None = None) -> None:
    """The test's time-out is the bound."""
    while not await condition():
        if task is not None and task.done():
            await task
        await asyncio.sleep(0.005)


@pytest.fixture
async def cluster() -> Cluster:
    store = MemoryStore()
    seal(store, "/registry/secrets/default/a", OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    return Cluster(store, Expect(LEADER, elected.revision, created=True))


# ----------------------------------------------------------------------------------------------------- an old file


async def test_an_old_copy_of_the_file_is_no_change_and_nothing_is_asked_for(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", NEW, OLD):
        pass
    before = [one.value.id for one in await cluster.requests.all()]
    with pytest.raises(OutdatedError, match=r"sha256:1, which was in force before sha256:2 .* a comment will do"):
        await cluster.reign("sha256:1", OLD, brake=Brake()).run()
    assert [one.value.id for one in await cluster.requests.all()] == before
    assert await cluster.in_force("sha256:2")()


async def test_who_saw_the_file_go_back_goes_back(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", NEW, OLD):
        pass
    async with cluster.under("sha256:1", OLD, NEW, before="sha256:2"):
        pass
    # From here on it is the other one that is old.
    with pytest.raises(OutdatedError, match="sha256:2"):
        await cluster.reign("sha256:2", NEW, OLD, brake=Brake()).run()


async def test_a_file_from_which_an_unused_key_was_removed_is_a_change_for_whoever_comes_to_lead(
    cluster: Cluster,
) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", OLD, NEW):
        pass
    fingerprint = NEW.keys[0].secret.fingerprint(NEW.type.value)
    rotation = replace(ROTATION, fingerprint=fingerprint)
    await Rotations(cluster.store, KEYSPACE).save(Stored(rotation, 0))
    async with cluster.under("sha256:1", OLD):
        pass


async def test_a_file_that_was_never_in_force_is_a_change_for_whoever_comes_to_lead(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", NEW, OLD):
        await cluster.campaign(CampaignState.RUNNING)


# ------------------------------------------------------------------------------------------------ a file that changes


async def test_a_file_of_the_same_meaning_goes_on_with_the_campaign(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
    async with cluster.under("sha256:2", NEW, OLD):
        async with asyncio.timeout(10):
            stored = await cluster.campaigns.get(first.id)
            assert stored is not None
            assert (stored.value.state, stored.value.generation) == (CampaignState.RUNNING, "sha256:2")
    assert len(await cluster.campaigns.all()) == 1


async def test_a_name_that_governs_nothing_comes_and_goes_without_a_change(cluster: Cluster) -> None:
    with capture_logs() as logs:
        async with cluster.under("sha256:1", NEW, OLD):
            first = await cluster.campaign(CampaignState.RUNNING)
        for generation, names in (("sha256:2", ("secrets", "deployments")), ("sha256:3", ("secrets",))):
            cluster.names = names
            async with cluster.under(generation, NEW, OLD):
                stored = await cluster.campaigns.get(first.id)
                assert stored is not None
                assert (stored.value.state, stored.value.generation) == (CampaignState.RUNNING, generation)
    assert len(await cluster.campaigns.all()) == 1
    changes = [(one["resource"], one["change"]) for one in logs if one["event"] == "configuration.changed"]
    assert changes == [("secrets", "first_sight")]


async def test_an_operators_pause_outlives_a_change_of_the_key(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
        await cluster.requests.control(RequestKind.PAUSE, first.id, "p-1")
        await cluster.campaign(CampaignState.PAUSED)
    async with cluster.under("sha256:2", PLAIN, NEW, OLD):
        pass
    async with cluster.under("sha256:3", OLD, NEW):
        second = await cluster.campaign(CampaignState.PAUSED, first.id)
    assert (second.generation, second.paused_for) == ("sha256:3", Pause.OPERATOR)
    superseded = await cluster.campaigns.get(first.id)
    assert superseded is not None
    assert superseded.value.state is CampaignState.SUPERSEDED


async def test_a_campaign_that_an_operator_asks_for_is_not_held_by_an_earlier_pause(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
        await cluster.requests.control(RequestKind.PAUSE, first.id, "p-1")
    await cluster.requests.submit(start_request({"id": "mine", "priority": 100}, "", NOW))
    async with cluster.under("sha256:2", OLD, NEW):
        # There is nothing to rewrite: it may be at its proof already.
        await cluster.campaign({CampaignState.RUNNING, CampaignState.PROVING}, first.id)


async def test_a_leader_records_where_plaintext_is_late_under_the_next_file(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, PLAIN):
        pass
    proven = replace(CAMPAIGN, state=CampaignState.COMPLETE, generation="sha256:1", proof_revision=10**6)
    await cluster.campaigns.create(proven, [])
    async with cluster.under("sha256:2", NEW, OLD, PLAIN):
        pass
    stored = await Generations(cluster.store, KEYSPACE).load()
    assert stored is not None
    assert (stored.value.generation.hash, stored.value.settled) == ("sha256:2", frozenset({"secrets"}))


# ---------------------------------------------------------------------------------------- words that come early or late


async def test_a_request_that_waits_can_be_paused_and_begins_at_rest(cluster: Cluster) -> None:
    await cluster.requests.submit(start_request({"id": "mine", "priority": 100}, "", NOW))
    done = await cluster.requests.control(RequestKind.PAUSE, "mine", "p-1")
    assert (done.state, done.because) == (RequestState.ACCEPTED, "pause by an operator, before it began")
    async with cluster.under("sha256:1", NEW, OLD):
        paused = await cluster.campaign(CampaignState.PAUSED)
    assert paused.paused_for is Pause.OPERATOR
    answered = await cluster.requests.get("mine")
    assert answered is not None
    assert answered.value.campaign == paused.id


async def test_a_request_that_waits_can_be_resumed_and_cancelled(cluster: Cluster) -> None:
    await cluster.requests.submit(start_request({"id": "mine"}, "", NOW))
    for kind in (RequestKind.PAUSE, RequestKind.RESUME):
        await cluster.requests.control(kind, "mine", f"word-{kind}")
        stored = await cluster.requests.get("mine")
        assert stored is not None
        assert stored.value.options.paused is (kind is RequestKind.PAUSE)
    await cluster.requests.control(RequestKind.CANCEL, "mine", "word-cancel")
    stored = await cluster.requests.get("mine")
    assert stored is not None
    assert stored.value.state is RequestState.CANCELLED


CAMPAIGN = Campaign("c", CampaignState.RUNNING, "sha256:0", Scope(("secrets",)), 1, NOW, "why")
ROTATION = Rotation(
    *("r", RotationStep.WITHDRAW, "", (0,), ("secrets",), NEW.type.value, NEW.keys[0].name, (), "sha256:2")
)
FREE = Pressure(None, None, None)


async def test_a_resumed_campaign_waits_for_the_schedulers_look(cluster: Cluster) -> None:
    await cluster.campaigns.create(CAMPAIGN.paused(Pause.OPERATOR, "by hand"), [])
    await cluster.requests.control(RequestKind.RESUME, "c", "r-1")
    stored = await cluster.campaigns.get("c")
    assert stored is not None
    resumed = stored.value
    assert (resumed.state, resumed.paused_for) == (CampaignState.PAUSED, Pause.SCHEDULER)
    closed = judge_rest(resumed, replace(FREE, window="it is night"))
    assert (closed.state, closed.paused_for) == (CampaignState.PAUSED, Pause.WINDOW)
    assert judge_rest(resumed, FREE).state is CampaignState.RUNNING


async def test_a_quarantine_that_grows_pauses_what_no_operator_asked_for_until_their_word(cluster: Cluster) -> None:
    with capture_logs() as logs:
        async with cluster.under("sha256:1", NEW, OLD):
            campaign = await cluster.campaign(CampaignState.RUNNING)
            checkpoints = Checkpoints(cluster.store, KEYSPACE)
            stored = await checkpoints.load(campaign.id, 0)
            # As a worker would leave it.
            grown = stored.value.advanced(b"", BatchReport(quarantined=201, fresh=201))
            await checkpoints.save(stored.holding(grown))
            paused = await cluster.campaign(CampaignState.PAUSED)
            assert (paused.paused_for, paused.growth.most) == (Pause.QUARANTINE, 200)
            await cluster.requests.control(RequestKind.RESUME, campaign.id, "r-1")
            resumed = await cluster.campaign(CampaignState.RUNNING)
            assert resumed.growth.most is None
    assert [log["log_level"] for log in logs if log["event"] == "quarantine.grew"] == ["error"]
    entries = [entry.event async for entry in AuditLog(cluster.store, KEYSPACE, "test").entries()]
    assert entries.count("quarantine.grew") == 1


def test_options_without_the_field_for_a_pause_are_read_as_ones_without_a_pause() -> None:
    old = Request("r", RequestKind.START, NOW, options=CampaignOptions("because", 5.0, 1)).to_json()
    options = old["options"]
    assert isinstance(options, dict)
    del options["paused"]
    assert Request.from_json(old).options == CampaignOptions("because", 5.0, 1)


# ------------------------------------------------------------------------------------------- what a leader takes over


def damage(store: MemoryStore) -> None:
    store.put(b"/registry/secrets/default/lost", b"k8s:enc:aescbc:v1:lost-key:nothing")


async def test_a_leader_shows_and_says_what_the_one_before_found_and_nothing_under_another_file(
    cluster: Cluster,
) -> None:
    damage(cluster.store)
    async with cluster.under("sha256:1", NEW, OLD):
        await until(lambda: shows(cluster, "kube_rewrap_stale_objects", 1.0))
        before = cluster.shown()
    assert before["kube_rewrap_unreadable_objects secrets no_key_of_that_name"] == 1.0
    with capture_logs() as logs:
        async with cluster.under("sha256:1", NEW, OLD):
            await until(lambda: shows(cluster, "kube_rewrap_stale_objects", 1.0))
            after = cluster.shown()
    assert after["kube_rewrap_unreadable_objects secrets no_key_of_that_name"] == 1.0
    assert [(log["resource"], log["reason"], log["objects"]) for log in logs if log["event"] == "scan.unreadable"] == [
        ("secrets", "no_key_of_that_name", 1)
    ]
    # Of a record of another generation nothing is shown: nothing was scanned under this one.
    stored = await Scans(cluster.store, KEYSPACE).load()
    assert stored is not None
    await Scans(cluster.store, KEYSPACE).replace(replace(stored, generation="sha256:0"))
    reign = cluster.reign("sha256:1", NEW, OLD, brake=Brake())
    await reign.office.figures.show_records()
    assert [name for name in cluster.shown() if "campaign" not in name] == []


async def shows(cluster: Cluster, name: str, value: float) -> bool:
    return cluster.shown().get(name) == value


async def test_a_repair_that_can_never_be_met_is_refused_and_others_go_on(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
    await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
    gone = Request(
        "drift-1", RequestKind.START, NOW, Origin.DRIFT, ("widgets.example.com",), options=CampaignOptions(priority=90)
    )
    await cluster.requests.submit(gone)
    async with cluster.under("sha256:1", NEW, OLD):
        await cluster.campaign(CampaignState.RUNNING)
    refused = await cluster.requests.get("drift-1")
    assert refused is not None
    told = "resources: widgets.example.com is not governed by the configuration; it governs secrets"
    assert (refused.value.state, refused.value.because) == (RequestState.REFUSED, told)


async def test_an_operators_request_about_nothing_is_refused_with_its_reason(cluster: Cluster) -> None:
    await cluster.requests.submit(start_request({"id": "mine", "namespaces": ["nosuch"], "priority": 100}, "", NOW))
    async with cluster.under("sha256:1", NEW, OLD):
        await cluster.campaign(CampaignState.RUNNING)
    refused = await cluster.requests.get("mine")
    assert refused is not None
    told = "namespaces: nosuch: no object is there, so nothing would be proven about it; "
    assert refused.value.state is RequestState.REFUSED
    assert refused.value.because == f"{told}if that is meant, say --allow-empty (allow_empty in a message)"


async def test_a_campaign_that_an_operator_ended_is_not_shown_as_running(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
        await until(lambda: shows(cluster, "kube_rewrap_campaign_state everything running", 1.0))
        await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
        await until(lambda: shows(cluster, "kube_rewrap_campaign_state everything cancelled", 1.0))


# ------------------------------------------------------------------------------------------- beside, and in between


async def test_while_a_campaign_is_at_work_drift_is_asked_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kube_rewrap.scheduler.campaigns.housekeeping._LOOK_SECONDS", 0.01)
    async with cluster.under("sha256:1", NEW, OLD) as reign:
        await cluster.campaign(CampaignState.RUNNING)
        reign.drifted("secrets", "default")

        async def is_asked_for() -> bool:
            return any(one.value.origin is Origin.DRIFT for one in await cluster.requests.all())

        await until(is_asked_for)
        assert [one.value.state for one in await cluster.campaigns.all()] == [CampaignState.RUNNING]


async def test_a_leader_shows_the_campaigns_on_record_before_it_does_anything(cluster: Cluster) -> None:
    whole = replace(CAMPAIGN, state=CampaignState.INCOMPLETE, whole=True)
    part = replace(CAMPAIGN, id="d", state=CampaignState.CANCELLED)
    for one in (whole, part):
        await cluster.campaigns.create(one, [])
    await cluster.reign("sha256:0", NEW, OLD, brake=Brake()).office.figures.show_records()
    shown = cluster.shown()
    assert shown["kube_rewrap_campaign_state everything incomplete"] == 1.0
    assert shown["kube_rewrap_campaign_state part cancelled"] == 1.0


async def test_convergence_that_a_rotation_saw_lets_a_request_go_on_that_waited_for_it(cluster: Cluster) -> None:
    class AllDo:
        async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:  # noqa: ARG002
            return Convergence(is_converged=True, generation=file_hash, because="all run it")

    brake = Brake()
    reign = cluster.reign("sha256:1", NEW, OLD, brake=brake)
    probe = LeaderProbe(reign.office.service, AllDo(), brake, reign.office.campaigns, reign.office.inbox)
    await reign.office.inbox.ask_for_resync("something is stale")
    [stored] = await cluster.requests.all()
    await reign.office.inbox.put_off_until_converged(stored, "not all do")
    assert await reign.office.inbox.next() is None
    await probe.convergence(replace(ROTATION, file="sha256:0"))  # another file: says nothing about this one
    assert await reign.office.inbox.next() is None
    await probe.convergence(replace(ROTATION, file="sha256:1"))
    assert await reign.office.inbox.next() is not None


def fingerprint_of(key: KeyedProvider) -> str:
    return key.keys[0].secret.fingerprint(key.type.value)


async def test_a_full_check_puts_a_key_on_record_that_only_reads(cluster: Cluster) -> None:
    reign = cluster.reign("sha256:1", OLD, NEW, brake=Brake())
    assert await reign.resync.check_if_due()
    assert set(await reign.office.service.engine.ledger.all()) == {fingerprint_of(NEW), fingerprint_of(OLD)}


async def test_a_full_check_is_put_off_by_the_one_before_and_made_soon_after_a_gap(cluster: Cluster) -> None:
    reign = cluster.reign("sha256:1", OLD, NEW, brake=Brake())
    assert (await reign.resync.check_if_due(), await reign.resync.check_if_due()) == (True, False)
    reign.office.schedule.soon()
    assert await reign.resync.check_if_due()


async def test_a_key_that_is_due_by_its_rate_is_shown_as_due(cluster: Cluster) -> None:
    reign = cluster.reign("sha256:1", NEW, OLD, brake=Brake())
    await reign.resync.check_if_due()
    haste = Haste(Settings().budget.gcm_limit, 60, 1_800)
    usages = Usages(cluster.store, KEYSPACE)
    await usages.save(Stored(Usage(hasty={fingerprint_of(NEW): haste})))
    await reign.key_monitor.check()
    due = {name: value for name, value in cluster.shown().items() if "rotation_due" in name}
    assert list(due.values()) == [1.0]


class WatchedStore(MemoryStore):
    """Calls `on_page` while a scan reads its first page."""

    on_page: Callable[[], None] | None = None

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        if self.on_page is not None and keys.start.startswith(b"/registry/secrets"):
            call, self.on_page = self.on_page, None
            call()
        return await super().page(keys, limit, revision=revision, since=since)


async def test_a_gap_that_is_noticed_during_a_full_check_asks_for_another_one() -> None:
    store = WatchedStore()
    seal(store, "/registry/secrets/default/a", OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    leader = Cluster(store, Expect(LEADER, elected.revision, created=True)).reign("sha256:1", OLD, NEW, brake=Brake())
    store.on_page = leader.office.schedule.soon
    assert [await leader.resync.check_if_due() for _ in range(3)] == [True, True, False]


async def test_what_an_earlier_scan_found_does_not_replace_what_a_later_one_did(cluster: Cluster) -> None:
    office = cluster.reign("sha256:1", NEW, OLD, brake=Brake()).office
    _, earlier = await office.service.inventory()
    seal(cluster.store, "/registry/secrets/default/b", OLD)
    _, later = await office.service.inventory()
    for found in (later, earlier):
        await office.figures.scanned(found)
    scan = await Scans(cluster.store, KEYSPACE).load()
    assert scan is not None
    assert (scan.revision, scan.stale) == (later.revision, 2)
