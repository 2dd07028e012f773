"""`plaintext.quarantine_late`: after a complete campaign, each reader quarantines plaintext."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    Key,
    KeyedProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import PlaintextSettings, Settings
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.engine import Engine, describe
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.examination import examine
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec
from kube_rewrap.worker.etcd.store import Item
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations, late_plaintext
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason
from tests.fakes.objects import NEW, OBJECT, OLD, fill
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import NOW, PLAIN, run

pytestmark = pytest.mark.timeout(30)

PUT = b"/registry/secrets/default/put-there"


def new_cluster(store: MemoryStore, *providers: Provider, late: bool = True, name: str = "sha256:0") -> Cluster:
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
    generation = Generation(name, configuration, "test")
    settings = replace(Settings(), plaintext=PlaintextSettings(quarantine_late=late))
    return Cluster(settings, Layout(), Engine(store, settings, generation, LocalPace(0)))


async def completed(spec: CampaignSpec = EVERYTHING) -> MemoryStore:
    """A registry with plaintext in it, everything rewrapped and proven, and then plaintext that a writer put there."""
    store = MemoryStore()
    fill(store, PLAIN)
    ended = await run(new_cluster(store, NEW, PLAIN), spec)
    assert (ended.campaign.state, ended.report.rewritten) == (CampaignState.COMPLETE, 12)
    store.put(PUT, OBJECT)
    return store


async def test_plaintext_after_completion_is_left_alone_and_every_command_says_so() -> None:
    store = await completed()
    one = new_cluster(store, NEW, PLAIN)
    plan = await plan_run(one, EVERYTHING)
    assert (plan.found.stale, plan.found.unreadable_by) == (0, {("secrets", Reason.LATE_PLAINTEXT): 1})
    _, examined = await examine(one, PUT)
    assert isinstance(examined.verdict, Quarantine)
    assert (examined.verdict.reason, examined.verdict.claimed) == (Reason.LATE_PLAINTEXT, (Chain([PLAIN]).primary,))
    with capture_logs():
        ended = await run(one)
    assert ended.campaign.state is CampaignState.INCOMPLETE
    assert [(left.key, left.reason) for left in ended.quarantined] == [(PUT, Reason.LATE_PLAINTEXT)]
    assert ended.proof.unreadable_by == ended.quarantined_by == {("secrets", Reason.LATE_PLAINTEXT): 1}
    found = await store.get(PUT)
    assert found is not None
    assert found.value == OBJECT
    # The observer asks the same engine.
    recognised = one.engine.recognise(Item(PUT, OBJECT, 1, 1, 0), "secrets")
    assert isinstance(recognised, Quarantine)


@pytest.mark.parametrize(
    ("late", "name", "spec"),
    [
        pytest.param(False, "sha256:0", EVERYTHING, id="the setting is off"),
        pytest.param(True, "sha256:1", EVERYTHING, id="completed under another configuration"),
        pytest.param(True, "sha256:0", CampaignSpec(namespaces=("default",)), id="only a namespace was complete"),
    ],
)
async def test_else_plaintext_is_sealed_as_before(late: bool, name: str, spec: CampaignSpec) -> None:
    store = await completed(spec)
    ended = await run(new_cluster(store, NEW, PLAIN, late=late, name=name))
    assert (ended.campaign.state, ended.report.rewritten) == (CampaignState.COMPLETE, 1)


BOX = KeyedProvider(ProviderType.SECRETBOX, (Key("box", SecretBytes(b"b" * 32)),))


async def in_force(store: MemoryStore, one: Cluster) -> None:
    """A scheduler takes the file for the one in force, as a reign does."""
    generations = Generations(store, one.engine.keyspace)
    stored, now = await generations.load(), describe(one.generation)
    known = [each.value for each in await Campaigns(store, one.engine.keyspace).all()]
    late = late_plaintext(stored, known, now)
    fresh = stored.holding(stored.value.followed_by(now, late)) if stored else Stored(History(now, late_plaintext=late))
    await generations.save(fresh)


@pytest.mark.parametrize(
    ("files", "is_late"),
    [
        pytest.param([(BOX, NEW, PLAIN)], True, id="another key writes => late"),
        pytest.param([(NEW, BOX, PLAIN), (BOX, NEW, PLAIN)], True, id="the steps of a rotation => late"),
        pytest.param([(NEW,), (NEW, PLAIN)], False, id="identity was taken out and is listed anew => taken in"),
        pytest.param([(PLAIN, NEW), (NEW, PLAIN)], False, id="identity wrote for a while => taken in"),
        pytest.param([(PLAIN, NEW), (BOX, NEW, PLAIN)], False, id="also under a third file"),
    ],
)
@pytest.mark.parametrize("is_seen", [True, False], ids=["the last file in force", "the last file not seen yet"])
async def test_after_a_change_of_the_file_plaintext_is_as_late_as_before_unless_it_was_made_good_by_the_file(
    files: list[tuple[Provider, ...]], is_late: bool, is_seen: bool
) -> None:
    store = MemoryStore()
    fill(store, PLAIN)
    one = new_cluster(store, NEW, PLAIN)
    await in_force(store, one)
    assert (await run(one)).campaign.state is CampaignState.COMPLETE
    for number, providers in enumerate(files):
        # A file that comes back to the content of the first has its hash.
        one = new_cluster(store, *providers, name="sha256:0" if providers == (NEW, PLAIN) else f"sha256:{number + 1}")
        if is_seen or number < len(files) - 1:
            await in_force(store, one)
    store.put(PUT, OBJECT)
    ended = await run(one)
    assert ended.proof.unreadable_by == ({("secrets", Reason.LATE_PLAINTEXT): 1} if is_late else {})
    found = await store.get(PUT)
    assert found is not None
    assert (found.value == OBJECT) is is_late


AES, MORE, IDENTITY = KeyRef("aesgcm", "a", "1"), KeyRef("aescbc", "b", "2"), KeyRef("identity", "", "-")


@pytest.mark.parametrize(
    ("resources", "resource", "expected"),
    [
        pytest.param((("secrets", (AES, IDENTITY)),), "secrets", True, id="behind a key"),
        pytest.param((("secrets", (IDENTITY, AES)),), "secrets", False, id="it writes"),
        pytest.param((("secrets", (IDENTITY, IDENTITY)),), "secrets", False, id="it writes, twice"),
        pytest.param((("secrets", (AES, MORE)),), "secrets", False, id="not listed"),
        pytest.param((("*.*", (AES, IDENTITY)),), "secrets", True, id="by a wildcard"),
        pytest.param((("*.*", (AES, IDENTITY)), ("*.", (AES,))), "secrets", False, id="by the nearest wildcard"),
        pytest.param((("*.*", (AES, IDENTITY)), ("secrets", (AES,))), "secrets", False, id="by its name first"),
        pytest.param((("*.apps", (AES, IDENTITY)),), "secrets", False, id="no entry governs it"),
    ],
)
def test_a_configuration_reads_plaintext(
    resources: tuple[tuple[str, tuple[KeyRef, ...]], ...], resource: str, expected: bool
) -> None:
    assert GenerationRecord("g", resources).reads_plaintext(resource) is expected


def test_a_proof_from_an_earlier_term_of_the_same_file_makes_no_plaintext_late() -> None:
    now = GenerationRecord("g", (("secrets", (AES, IDENTITY)),))
    proven = Campaign(
        id="c",
        state=CampaignState.COMPLETE,
        generation="g",
        scope=Scope(("secrets",)),
        batches=0,
        planned_at=NOW,
        because="why",
        proof_revision=7,
    )
    assert late_plaintext(Stored(History(now), 6), [proven], now) == {"secrets"}
    assert late_plaintext(Stored(History(now), 8), [proven], now) == frozenset()
    assert late_plaintext(None, [proven], now) == {"secrets"}


@pytest.mark.parametrize(
    ("providers", "stored", "expected"),
    [
        pytest.param((NEW, PLAIN), OBJECT, Reason.LATE_PLAINTEXT, id="plaintext => left alone"),
        pytest.param((NEW, PLAIN), b"garbage", Reason.UNKNOWN_BYTES, id="no object => as ever"),
        pytest.param((NEW,), OBJECT, Reason.IDENTITY_MISSING, id="identity is not configured => as ever"),
        pytest.param((PLAIN, NEW), OBJECT, None, id="identity writes => current"),
        pytest.param((NEW, PLAIN, OLD), Chain([OLD]).seal(OBJECT, PUT), None, id="under a key => as ever"),
    ],
)
def test_what_a_chain_that_believes_no_plaintext_says(
    providers: tuple[Provider, ...], stored: bytes, expected: Reason | None
) -> None:
    verdict = Chain(providers, plaintext_is_late=True).open(stored, PUT)
    if expected is None:
        assert isinstance(verdict, Opened)
    else:
        assert isinstance(verdict, Quarantine)
        assert verdict.reason is expected
