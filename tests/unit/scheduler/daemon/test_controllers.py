"""What a leader's controllers do with requests, earlier records, drift, gaps and due keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    KeyedProvider,
)
from kube_rewrap.config.encryption.generation import NO_TARGETS
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.campaigns.pausing import judge_pause
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.rotation.probes import LeaderProbe
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Page, Put
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.campaign import CampaignOptions, CampaignState, Pause
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Origin, Request, RequestKind, RequestState, start_request
from kube_rewrap.worker.records.scans import Scans
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.records.usage import DueByRate, Usage
from kube_rewrap.worker.records.usages import Usages
from tests.fakes.objects import NEW, OLD, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.daemon.leader import CAMPAIGN, FREE, KEYSPACE, LEADER, NOW, ROTATION, Cluster, until

pytestmark = pytest.mark.timeout(20)


# -------------------------------------------------------------------------------- requests before and after a plan


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


async def test_a_resumed_campaign_waits_for_the_schedulers_look(cluster: Cluster) -> None:
    await cluster.campaigns.create(CAMPAIGN.paused(Pause.OPERATOR, "by hand"), [])
    await cluster.requests.control(RequestKind.RESUME, "c", "r-1")
    stored = await cluster.campaigns.get("c")
    assert stored is not None
    resumed = stored.value
    assert (resumed.state, resumed.paused_for) == (CampaignState.PAUSED, Pause.SCHEDULER)
    closed = judge_pause(resumed, replace(FREE, window="it is night"))
    assert (closed.state, closed.paused_for) == (CampaignState.PAUSED, Pause.WINDOW)
    assert judge_pause(resumed, FREE).state is CampaignState.RUNNING


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
            assert (paused.paused_for, paused.quarantine_limit.most) == (Pause.QUARANTINE, 200)
            await cluster.requests.control(RequestKind.RESUME, campaign.id, "r-1")
            resumed = await cluster.campaign(CampaignState.RUNNING)
            assert resumed.quarantine_limit.most is None
    assert [log["log_level"] for log in logs if log["event"] == "quarantine.grew"] == ["error"]
    entries = [entry.event async for entry in AuditLog(cluster.store, KEYSPACE, "test").entries()]
    assert entries.count("quarantine.grew") == 1


def test_options_without_the_field_for_a_pause_are_read_as_ones_without_a_pause() -> None:
    old = Request(
        id="r", kind=RequestKind.START, asked_at=NOW, options=CampaignOptions(reason="because", rate=5.0, priority=1)
    ).to_json()
    options = old["options"]
    assert isinstance(options, dict)
    del options["paused"]
    assert Request.from_json(old).options == CampaignOptions(reason="because", rate=5.0, priority=1)


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
    controllers = cluster.controllers("sha256:1", NEW, OLD, brake=Brake())
    await controllers.leader.figures.show_records()
    assert [name for name in cluster.shown() if "campaign" not in name] == []


async def shows(cluster: Cluster, name: str, value: float) -> bool:
    return cluster.shown().get(name) == value


async def test_a_repair_that_can_never_be_met_is_refused_and_others_go_on(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
    await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
    gone = Request(
        id="drift-1",
        kind=RequestKind.START,
        asked_at=NOW,
        origin=Origin.DRIFT,
        resources=("widgets.example.com",),
        options=CampaignOptions(priority=90),
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
    told = "namespaces: nosuch: no object is there, so a scan would prove nothing about it; "
    assert refused.value.state is RequestState.REFUSED
    assert refused.value.because == f"{told}if no object is expected, give --allow-empty (allow_empty in a request)"


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
    monkeypatch.setattr("kube_rewrap.scheduler.upkeep.housekeeping._LOOK_SECONDS", 0.01)
    async with cluster.under("sha256:1", NEW, OLD) as controllers:
        await cluster.campaign(CampaignState.RUNNING)

        async def is_accepted() -> bool:
            return [one.value.state for one in await cluster.requests.all()] == [RequestState.ACCEPTED]

        await until(is_accepted)  # drift that is seen while the request waits is left to its campaign
        controllers.drifted("secrets", "default")

        async def is_asked_for() -> bool:
            return any(one.value.origin is Origin.DRIFT for one in await cluster.requests.all())

        await until(is_asked_for)
        assert [one.value.state for one in await cluster.campaigns.all()] == [CampaignState.RUNNING]


async def test_drift_that_waits_outlives_a_new_generation_that_governs_its_resource(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kube_rewrap.scheduler.upkeep.housekeeping._LOOK_SECONDS", 60.0)
    async with cluster.under("sha256:1", NEW, OLD) as controllers:
        first = await cluster.campaign(CampaignState.RUNNING)
        controllers.drifted("secrets", "default")
        controllers.drifted("configmaps", "default")  # of an entry that the next file lacks
    await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
    monkeypatch.setattr("kube_rewrap.scheduler.upkeep.housekeeping._LOOK_SECONDS", 0.01)
    async with cluster.under("sha256:1", NEW, OLD, before="sha256:1"):

        async def is_asked_for() -> bool:
            return any(one.value.origin is Origin.DRIFT for one in await cluster.requests.all())

        await until(is_asked_for)
    asked = [one.value for one in await cluster.requests.all() if one.value.origin is Origin.DRIFT]
    assert [(one.resources, one.namespaces) for one in asked] == [(("secrets",), ("default",))]


async def test_a_leader_shows_the_campaigns_on_record_before_it_does_anything(cluster: Cluster) -> None:
    whole = replace(CAMPAIGN, state=CampaignState.INCOMPLETE, whole=True)
    part = replace(CAMPAIGN, id="d", state=CampaignState.CANCELLED)
    for one in (whole, part):
        await cluster.campaigns.create(one, [])
    await cluster.controllers("sha256:0", NEW, OLD, brake=Brake()).leader.figures.show_records()
    shown = cluster.shown()
    assert shown["kube_rewrap_campaign_state everything incomplete"] == 1.0
    assert shown["kube_rewrap_campaign_state part cancelled"] == 1.0


async def test_convergence_that_a_rotation_saw_lets_a_request_go_on_that_waited_for_it(cluster: Cluster) -> None:
    class AllDo:
        async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:  # noqa: ARG002
            return Convergence(is_converged=True, file_hash=file_hash, because="all run it")

    brake = Brake()
    controllers = cluster.controllers("sha256:1", NEW, OLD, brake=brake)
    probe = LeaderProbe(
        controllers.leader.cluster, AllDo(), brake, controllers.leader.campaigns, controllers.leader.backlog
    )
    await controllers.leader.backlog.ask_for_full_check("something is stale")
    [stored] = await cluster.requests.all()
    await controllers.leader.backlog.put_off_until_converged(stored, "not all do")
    assert await controllers.leader.backlog.next() is None
    await probe.convergence(replace(ROTATION, file="sha256:0"))  # another file: says nothing about this one
    assert await controllers.leader.backlog.next() is None
    await probe.convergence(replace(ROTATION, file="sha256:1"))
    assert await controllers.leader.backlog.next() is not None


def fingerprint_of(key: KeyedProvider) -> str:
    return key.keys[0].secret.fingerprint(key.type.value)


async def test_a_full_check_puts_a_key_on_record_that_only_reads(cluster: Cluster) -> None:
    controllers = cluster.controllers("sha256:1", OLD, NEW, brake=Brake())
    assert await controllers.full_check.check_if_due()
    assert set(await controllers.leader.cluster.engine.ledger.all()) == {fingerprint_of(NEW), fingerprint_of(OLD)}


async def test_a_full_check_is_put_off_by_the_one_before_and_made_soon_after_a_gap(cluster: Cluster) -> None:
    controllers = cluster.controllers("sha256:1", OLD, NEW, brake=Brake())
    assert (await controllers.full_check.check_if_due(), await controllers.full_check.check_if_due()) == (True, False)
    controllers.leader.schedule.soon()
    assert await controllers.full_check.check_if_due()


async def test_a_key_that_is_due_by_its_rate_is_shown_as_due(cluster: Cluster) -> None:
    controllers = cluster.controllers("sha256:1", NEW, OLD, brake=Brake())
    await controllers.full_check.check_if_due()
    by_rate = DueByRate(Settings().budget.gcm_limit, 60, 1_800)
    usages = Usages(cluster.store, KEYSPACE)
    await usages.save(Stored(Usage(due_by_rate={fingerprint_of(NEW): by_rate})))
    await controllers.key_monitor.check()
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
    leader = Cluster(store, Expect(LEADER, elected.revision, created=True)).controllers(
        "sha256:1", OLD, NEW, brake=Brake()
    )
    store.on_page = leader.leader.schedule.soon
    assert [await leader.full_check.check_if_due() for _ in range(3)] == [True, True, False]


async def test_what_an_earlier_scan_found_does_not_replace_what_a_later_one_did(cluster: Cluster) -> None:
    leader = cluster.controllers("sha256:1", NEW, OLD, brake=Brake()).leader
    _, earlier = await scan_cluster(leader.cluster)
    seal(cluster.store, "/registry/secrets/default/b", OLD)
    _, later = await scan_cluster(leader.cluster)
    for found in (later, earlier):
        await leader.figures.scanned(found)
    scan = await Scans(cluster.store, KEYSPACE).load()
    assert scan is not None
    assert (scan.revision, scan.stale) == (later.revision, 2)
