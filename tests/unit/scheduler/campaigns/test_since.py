"""Campaigns for a KEK that was rotated without a trace, and the space that a move to KMS takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    KmsProvider,
    Provider,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import BudgetSettings, PageSettings, Settings, SpaceSettings
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.preflight import growth_of, preflight, space_of_records
from kube_rewrap.scheduler.campaigns.run import RunPlan, RunResult
from kube_rewrap.scheduler.campaigns.take_up import take_up
from kube_rewrap.scheduler.campaigns.transition import Finish, Sweep, advance
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec
from kube_rewrap.worker.errors import RefusedError, SpaceError
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.request import Request, RequestKind
from kube_rewrap.worker.verdict import KeyRef
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.plugins import MemoryPlugins, new_data_key
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(30)

KEK, OTHER, BOX = (
    KeyRef("kms", "cloud", "1" * 16),
    KeyRef("kms", "cloud", "2" * 16),
    KeyRef("secretbox", "box", "3" * 16),
)
KMS = KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)
TARGETS = {"cloud": hash_of_key_id("kek-1")}
OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
ROOMY = Room(1, 100, None)
NOW = "2026-01-01T00:00:00+00:00"
CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.PROVING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=0,
    planned_at=NOW,
    because="why",
    options=CampaignOptions(since=70),
)
COUNT = 12


def tally(primary: KeyRef = KEK, *, current: int = 0, outdated: int = 0, elsewhere: int = 0) -> ResourceTally:
    found = ResourceTally("secrets", primary, (primary,))
    for number in range(current + outdated):
        found.add_readable(primary, 100, 1, is_outdated=number < outdated)
    for _ in range(elsewhere):
        found.add_readable(OTHER, 100, 1)
    return found


@pytest.mark.parametrize(
    ("primary", "since", "words"),
    [
        pytest.param(KEK, 0, [], id="no revision is named => go"),
        pytest.param(BOX, 0, [], id="no revision is named, and no KMS => go"),
        pytest.param(KEK, 77, [], id="the present revision => go"),
        pytest.param(KEK, 78, ["--since 78 lies in the future: etcd is at revision 77"], id="the next one => no"),
        pytest.param(BOX, 70, ["not for secrets (secretbox:box (3333333333333333))"], id="another primary => no"),
        pytest.param(BOX, 78, ["not for secrets", "lies in the future"], id="both => every reason"),
    ],
)
def test_what_a_revision_may_be(primary: KeyRef, since: int, words: list[str]) -> None:
    found = Inventory(77, (tally(primary, current=1),))
    refusals = preflight(found, {}, ROOMY, BudgetSettings(), 77, allow_plaintext=False, since=since)
    assert [type(one) for one in refusals] == [RefusedError] * len(words)
    assert all(word in str(one) for one, word in zip(refusals, words, strict=True))


def test_growth_is_added_for_what_is_not_under_the_primary_yet() -> None:
    found = Inventory(77, (tally(current=3, outdated=2, elsewhere=5), tally(BOX, elsewhere=7)))
    assert (found.stale, found.outdated, growth_of(found, {KEK: 710, BOX: 0})) == (2 + 5 + 7, 2, 5 * 710)
    assert growth_of(found, {}) == 0


def test_a_proof_is_complete_only_where_everything_was_written_since() -> None:
    step = advance(CAMPAIGN, (), Inventory(77, (tally(current=5),)), frozenset(), 0.0)
    assert isinstance(step.action, Finish)
    assert step.action.campaign.state is CampaignState.COMPLETE
    assert step.because == (
        "a scan at revision 77 read all 5 objects with their primary key, each of them last written after revision 70"
    )
    step = advance(CAMPAIGN, (), Inventory(77, (tally(current=3, outdated=2),)), frozenset(), 0.0)
    assert not isinstance(step.action, Sweep)
    assert isinstance(step.action, Finish)
    assert step.action.campaign.state is CampaignState.INCOMPLETE
    assert step.because == (
        "at revision 77, 2 objects are under their primary key, and were not rewritten since the KEK was rotated"
    )


def test_records_without_the_option_or_the_count_are_read() -> None:
    part = ProofPart(
        campaign="c",
        number=0,
        revision=77,
        generation="sha256:0",
        ranges=(),
        found=Inventory(77, (tally(outdated=2),)),
        of=1,
    )
    assert ProofPart.from_json(part.to_json()) == part
    written: dict[str, object] = part.to_json()
    for one in written["found"]:  # type: ignore[attr-defined]
        del one["outdated"]
    older = ProofPart.from_json(written)
    assert older.found is not None
    assert older.found.outdated == 0
    document = CAMPAIGN.to_json()
    assert Campaign.from_json(document) == CAMPAIGN
    del document["options"]["since"]  # type: ignore[attr-defined]
    assert Campaign.from_json(document).options.since == 0
    request = Request(id="r", kind=RequestKind.START, asked_at=NOW, options=CampaignOptions(since=70))
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize("outdated", [[1], [1, -1], [True, 1], [1, 2**63], ["1", 1], {}, 1])
def test_a_forged_count_is_refused(outdated: object) -> None:
    written: dict[str, object] = ProofPart(
        campaign="c", number=0, revision=77, generation="g", ranges=(), found=Inventory(77, (tally(),)), of=1
    ).to_json()
    written["found"][0]["outdated"] = outdated  # type: ignore[index]
    with pytest.raises(ValueError, match="outdated"):
        ProofPart.from_json(written)


class Scene:
    """A registry in memory under KMS v2, and one process after another."""

    def __init__(self, *providers: Provider, space: SpaceSettings | None = None) -> None:
        self.store = MemoryStore()
        configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers or (KMS,)),))
        generation = Generation("sha256:0", configuration, "test", TARGETS)
        settings = replace(Settings(), page=PageSettings(objects=5), space=space or SpaceSettings())
        self.plugins = MemoryPlugins()
        engine = Engine(self.store, settings, generation, LocalPace(0), self.plugins)
        self.cluster = Cluster(settings, Layout(), engine)

    def fill(self, provider: Provider, size: int = 0) -> None:
        chain = Chain([provider], targets=TARGETS)
        data_key = new_data_key(chain.kms_primary[0], "kek-1") if chain.kms_primary else None
        for number in range(COUNT):
            key = b"/registry/secrets/default/%02d" % number
            self.store.put(key, chain.seal(OBJECT + b" " * size, key, data_key))

    async def plan(self, since: int = 0) -> RunPlan:
        return await plan_run(self.cluster, CampaignSpec(options=CampaignOptions(since=since)))

    async def run(self, since: int = 0) -> RunResult:
        brake = Brake()
        async with hold_lock(self.cluster, brake) as lock:
            return await run_embedded(self.cluster, await self.plan(since), lock, brake, lambda _report, _batches: None)

    async def take_up(self, since: int) -> Campaign:
        async with hold_lock(self.cluster, Brake()) as lock:
            return (await take_up(self.cluster, await self.plan(since), lock.guard)).value

    async def campaigns(self) -> Sequence[Campaign]:
        return [one.value for one in await Campaigns(self.store, self.cluster.engine.keyspace).all()]


async def test_a_run_since_a_revision_rewrites_what_is_older_and_a_second_one_nothing() -> None:
    scene = Scene()
    scene.fill(KMS)
    since = await scene.store.revision()
    assert (await scene.run()).report.rewritten == 0
    first = await scene.run(since)
    assert (first.campaign.state, first.report.rewritten, first.proof.objects) == (CampaignState.COMPLETE, COUNT, COUNT)
    assert f"each of them last written after revision {since}" in first.campaign.because
    second = await scene.run(since)
    assert (second.campaign.state, second.report.rewritten) == (CampaignState.COMPLETE, 0)
    assert [one.options.since for one in await scene.campaigns()] == [0, since, since]
    _, found = await scan_cluster(scene.cluster)
    assert found.is_clean


@pytest.mark.parametrize(
    ("asked", "resumes"),
    [
        pytest.param(0, True, id="without a revision, it is resumed, and rewrites all that it was started for"),
        pytest.param(-1, True, id="the same revision => resumed"),
        pytest.param(-2, False, id="another revision => superseded"),
    ],
)
async def test_an_unfinished_campaign_since_a_revision(asked: int, resumes: bool) -> None:
    scene = Scene()
    scene.fill(KMS)
    since = await scene.store.revision()
    wanted = {0: 0, -1: since, -2: since - 1}[asked]
    first = await scene.take_up(since)
    plan = await scene.plan(wanted)
    assert (plan.resumes is not None, plan.options.since) == (resumes, since if resumes else since - 1)
    ended = await scene.run(wanted)
    assert (ended.campaign.id == first.id) == resumes
    assert (ended.campaign.state, ended.campaign.options.since) == (CampaignState.COMPLETE, plan.options.since)
    assert ended.report.rewritten == COUNT - (not resumes)
    before = (await scene.campaigns())[0]
    told = f"; objects last written up to revision {since} may be left: ask again with --since"
    assert before.because.endswith(told) != resumes


async def test_a_plan_with_a_campaign_that_rewrites_stale_objects_only_is_made_anew() -> None:
    scene = Scene()
    scene.fill(KMS)
    first = await scene.take_up(0)
    ended = await scene.run(await scene.store.revision())
    assert (ended.campaign.id == first.id, ended.report.rewritten) == (False, COUNT)
    assert (await scene.campaigns())[0].state is CampaignState.SUPERSEDED


async def test_a_plan_counts_what_the_move_to_kms_adds_to_each_object() -> None:
    scene = Scene(KMS, IdentityProvider())
    scene.fill(IdentityProvider(), 200)
    plan = await scene.plan()
    ended = await scene.run()
    stored = sum(tally.bytes for one in ended.proof.resources for tally in one.keys.values())
    assert (plan.found.stale_bytes, plan.growth) == (COUNT * (len(OBJECT) + 200), stored - plan.found.stale_bytes)
    records = space_of_records(plan.found, 5)
    assert plan.room.projected == plan.found.stale_bytes + plan.growth + records

    for growth, refused in ((plan.growth, False), (plan.growth - 1, True)):
        quota = plan.found.stale_bytes + growth + records
        full = Scene(KMS, IdentityProvider(), space=SpaceSettings(quota_bytes=quota, stop_at=1.0))
        full.fill(IdentityProvider(), 200)
        refusals = (await full.plan()).refusals
        assert [type(one) for one in refusals] == [SpaceError] * refused


async def test_no_plugin_is_asked_for_growth_where_nothing_moves() -> None:
    scene = Scene()
    scene.fill(KMS)
    plugins = scene.plugins
    plan = await scene.plan(await scene.store.revision())
    assert (plan.found.outdated, plan.growth, plugins.made) == (COUNT, 0, [])
