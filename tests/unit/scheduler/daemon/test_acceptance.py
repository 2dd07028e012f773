"""Which file a leader accepts, which campaign it requests then, and when it continues the unfinished one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.scheduler.daemon.acceptance import Acceptance
from kube_rewrap.worker.errors import OutdatedError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import CampaignState, Pause
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.request import RequestKind, start_request
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.objects import NEW, OLD
from tests.unit.scheduler.campaigns.harness import PLAIN
from tests.unit.scheduler.daemon.leader import CAMPAIGN, KEYSPACE, NOW, ROTATION, Cluster

pytestmark = pytest.mark.timeout(20)


# ----------------------------------------------------------------------------------------------------- an old file


async def test_an_old_copy_of_the_file_is_no_change_and_nothing_is_asked_for(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", NEW, OLD):
        pass
    before = [one.value.id for one in await cluster.requests.all()]
    with pytest.raises(OutdatedError, match=r"sha256:1, which sha256:2 has replaced.* for example a comment"):
        await cluster.controllers("sha256:1", OLD, brake=Brake()).run()
    assert [one.value.id for one in await cluster.requests.all()] == before
    assert await cluster.has_accepted("sha256:2")()


async def test_a_leader_that_observed_the_rollback_follows_it(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", OLD):
        pass
    async with cluster.under("sha256:2", NEW, OLD):
        pass
    async with cluster.under("sha256:1", OLD, NEW, before="sha256:2"):
        pass
    # From here on the other file is the old copy.
    with pytest.raises(OutdatedError, match="sha256:2"):
        await cluster.controllers("sha256:2", NEW, OLD, brake=Brake()).run()


async def test_a_file_from_which_an_unused_key_was_removed_is_a_change_for_a_new_leader(
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


async def test_a_file_that_was_never_in_force_is_a_change_for_a_new_leader(cluster: Cluster) -> None:
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
    assert (stored.value.generation.hash, stored.value.late_plaintext) == ("sha256:2", frozenset({"secrets"}))


# ---------------------------------------------------------------------------------------------------- KMS providers

KMS_V1 = KmsProvider("v1", "vault", "unix:///run/kms.sock", 3.0, 1000)
KMS_V2 = KmsProvider("v2", "vault", "unix:///run/kms.sock", 3.0, None)
CLOUD = KmsProvider("v2", "cloud", "unix:///run/cloud.sock", 3.0, None)


async def test_case_22_another_version_under_one_name_is_dangerous_and_nothing_runs(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", KMS_V1, OLD):
        pass
    before = await Generations(cluster.store, KEYSPACE).load(), await cluster.requests.all()
    with pytest.raises(OutdatedError, match=r"nothing is written under the file sha256:2: .*turned from v1 into v2"):
        await cluster.controllers("sha256:2", KMS_V2, OLD, brake=Brake()).run()
    assert (await Generations(cluster.store, KEYSPACE).load(), await cluster.requests.all()) == before
    # The way that the sentence names.
    async with cluster.under("sha256:3", CLOUD, KMS_V1, OLD):
        pass


def kms_record(file: str, kek: str, *others: str) -> GenerationRecord:
    chain = (KeyRef("kms", "vault", kek), *(KeyRef("aescbc", name, name) for name in others))
    return GenerationRecord(f"{file}-{kek}", (("secrets", chain),), file)


@pytest.mark.parametrize(
    ("history", "now", "refusal"),
    [
        pytest.param([("f1", "a"), ("f1", "b")], ("f1", "c"), None, id="a third KEK of the file"),
        pytest.param(
            [("f1", "a"), ("f2", "a")], ("f1", "a"), "the file is f1, which f2 has replaced", id="an old file"
        ),
        pytest.param(
            [("f1", "a"), ("f2", "a"), ("f2", "b")],
            ("f1", "b"),
            "the file is f1, which f2 has replaced",
            id="an old file, which was never in force under the present KEK",
        ),
        pytest.param(
            [("f1", "a"), ("f1", "b")],
            ("f1", "a"),
            "f1-a has the file in force with a KEK that f1-b has replaced",
            id="a KEK that goes back, since its record did",
        ),
        pytest.param([("f1", "a"), ("f2", "a"), ("f1", "b")], ("f1", "c"), None, id="a file that is in force again"),
    ],
)
async def test_an_old_copy_of_the_file_is_known_by_the_file_not_by_its_kek(
    cluster: Cluster, history: list[tuple[str, str]], now: tuple[str, str], refusal: str | None
) -> None:
    known = History(kms_record(*history[0]))
    for file, kek in history[1:]:
        known = known.followed_by(kms_record(file, kek))
    await Generations(cluster.store, KEYSPACE).save(Stored(History.from_json(known.to_json())))
    leader = cluster.controllers("sha256:0", OLD, brake=Brake()).leader
    acceptance = Acceptance(leader, kms_record(*now), "")
    if refusal is None:
        await acceptance.current()
    else:
        with pytest.raises(OutdatedError, match=refusal):
            await acceptance.current()
