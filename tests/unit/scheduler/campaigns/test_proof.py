"""How a proof scan is cut into parts, and goes on where a slice of time ended: every range once, and none too large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, ProviderType, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import Key, KeyedProvider, KmsProvider
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import PageSettings, Settings
from kube_rewrap.scheduler.campaigns.proof import PartsProver
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.discovery import cut
from kube_rewrap.scheduler.registry.scope import CampaignSpec, spec_of, still_there
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.errors import KmsRefusedError
from kube_rewrap.worker.etcd.pages import PageSizer
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Put
from kube_rewrap.worker.inventory import take_inventory, take_slice
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.proving import scan_part
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.proof import ProofPart, is_whole, whole
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.wrapped import fingerprint_of, hash_of_key_id, plugin_of
from tests.fakes.objects import OBJECT
from tests.fakes.plugins import MemoryPlugins, new_data_key
from tests.fakes.store import MemoryStore

SECRETS = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))
CHAIN = Chain([KeyedProvider(ProviderType.AESGCM, (Key("k", SecretBytes(b"k" * 32)),))])
NAMES = st.lists(st.text("ab/-", min_size=1, max_size=6), unique=True, max_size=30)


def registry(names: list[str], *, sealed: bool = False) -> MemoryStore:
    store = MemoryStore()
    for name in names:
        key = b"/registry/secrets/" + name.encode()
        store.put(key, CHAIN.seal(b'{"apiVersion":"v1","kind":"Secret"}', key) if sealed else b"x")
    return store


@given(NAMES, st.integers(1, 5))
async def test_the_pieces_cover_the_range_once_and_none_is_too_large(names: list[str], every: int) -> None:
    store = registry(names)
    pieces = await cut(store, SECRETS, every)
    assert (pieces[0].range.start, pieces[-1].range.end) == (SECRETS.range.start, SECRETS.range.end)
    assert all(left.range.end == right.range.start for left, right in pairwise(pieces))
    counts = [await store.count(piece.range) for piece in pieces]
    assert (sum(counts), max(counts) <= every) == (len(names), True)


@given(NAMES, st.integers(1, 4), st.lists(st.integers(0, 4), max_size=10))
async def test_a_part_that_goes_on_counts_every_object_once(names: list[str], page: int, slices: list[int]) -> None:
    """Whatever number of pages each slice of time is long."""
    store, sizer = registry(names, sealed=True), PageSizer(PageSettings(objects=page))
    revision = await store.revision()
    part = ProofPart(campaign="c", number=0, revision=revision, generation="g", ranges=(SECRETS,), of=1)
    for pages in [*slices, 100]:
        if part.is_done:
            break
        looks = iter([False] * pages)
        counted, cursor = await take_slice(
            store, part.rest[0], {"secrets": CHAIN}, sizer, revision=revision, is_over=partial(next, looks, True)
        )
        part = ProofPart.from_json(part.advanced(counted, cursor).to_json())
    assert part.found == await take_inventory(store, [SECRETS], {"secrets": CHAIN}, sizer, revision)
    assert whole([part], ()) == part.found


@pytest.mark.parametrize(
    ("numbers", "of", "is_all"),
    [
        pytest.param([0, 1, 2], 3, True, id="all parts => whole"),
        pytest.param([0, 2], 3, False, id="one is missing => not whole"),
        pytest.param([0, 1], 3, False, id="the last one is missing => not whole"),
        pytest.param([1, 2], 3, False, id="the first one is missing => not whole"),
        pytest.param([0], 0, False, id="of an earlier version => not whole"),
        pytest.param([], 0, False, id="none => not whole"),
    ],
)
def test_a_proof_with_a_part_missing_is_none(numbers: list[int], of: int, is_all: bool) -> None:
    assert (
        is_whole(
            [
                ProofPart(
                    campaign="c", number=number, revision=7, generation="g", ranges=(), found=Inventory(7, ()), of=of
                )
                for number in numbers
            ]
        )
        is is_all
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(CampaignSpec(), (SECRETS,), id="everything => what is governed"),
        pytest.param(CampaignSpec(("secrets", "gone.example.com")), (SECRETS,), id="one of two is gone => the other"),
        pytest.param(CampaignSpec(("gone.example.com",)), (), id="the only one is gone => nothing, never everything"),
    ],
)
def test_what_is_gone_is_not_scanned(spec: CampaignSpec, expected: tuple[ResourceRange, ...]) -> None:
    assert still_there(Territory((SECRETS,), ()), spec) == expected


class NoScanners:
    async def offer_proof(self, campaign: str, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        """Offers nothing: the test scans the parts itself."""


CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.PROVING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=1,
    planned_at="2026-01-01T00:00:00+00:00",
    because="why",
    whole=True,
)


async def prover_of(engine: Engine, store: MemoryStore, part_objects: int = 100) -> tuple[PartsProver, Expect]:
    """The leader's prover of `CAMPAIGN`, and a claim with which a worker scans parts."""
    lock, hold = b"/kube-rewrap/v1/owner", b"/kube-rewrap/v1/claims/c/0"
    guard = Expect(lock, (await store.commit([], [Put(lock, b"me")])).revision)
    claim = Expect(hold, (await store.commit([], [Put(hold, b"me")])).revision)
    cluster = Cluster(Settings(), Layout(), engine)
    return PartsProver(cluster, NoScanners(), guard, spec_of(CAMPAIGN), part_objects), claim


async def test_a_part_that_a_plugin_stops_says_so_until_it_goes_on() -> None:
    plugins, store = MemoryPlugins(), MemoryStore()
    kms = KmsProvider("v1", "cloud", "unix:///kms.sock", 3.0, 1000)
    generation = Generation("sha256:0", EncryptionConfiguration((ResourceEntry(("secrets",), (kms,)),)), "test")
    for number in range(3):
        key = f"/registry/secrets/default/{number}".encode()
        sealed = Chain([kms]).seal(OBJECT, key, new_data_key(plugin_of(kms)))
        store.put(key, sealed)
    engine = Engine(store, Settings(), generation, LocalPace(0), plugins)
    prover, claim = await prover_of(engine, store)

    async def look() -> Inventory | None:
        return await prover.look(Stored(CAMPAIGN), frozenset())

    assert await look() is None
    plugins.failing = KmsRefusedError("no permission")
    with pytest.raises(KmsRefusedError):
        await scan_part(engine, CAMPAIGN, 0, claim, Brake())
    assert (await look(), prover.failing) == (None, (SECRETS,))
    assert await scan_part(engine, CAMPAIGN, 0, claim, Brake())
    proof = await look()
    assert proof is not None
    assert (proof.objects, proof.is_clean, prover.failing) == (3, True, ())


async def test_a_kek_on_record_is_counted_by_itself_however_many_other_keks_the_parts_found() -> None:
    """Who writes to etcd can name any number of KEKs; past 200 of a resource they are counted together."""
    store, kms = MemoryStore(), KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)
    target, former = hash_of_key_id("kek-2"), hash_of_key_id("kek-1")
    names = [*(f"invented-{number}" for number in range(250)), "kek-1", "kek-1", "kek-2"]
    for number, name in enumerate(names):
        key = f"/registry/secrets/default/{number:03}".encode()
        chain = Chain([kms], targets={"cloud": hash_of_key_id(name)})
        store.put(key, chain.seal(OBJECT, key, new_data_key(plugin_of(kms), name)))
    keks = Keks(store, Keyspace())
    await keks.note("cloud", lambda _: Kek(provider="cloud", target=target, since=0.0, former=(former,)))
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), (kms,)),))
    generation = Generation("sha256:0", configuration, "test").aimed({"cloud": target})
    engine = Engine(store, Settings(), generation, LocalPace(0), MemoryPlugins())
    campaign = replace(CAMPAIGN, generation=generation.hash)
    prover, claim = await prover_of(engine, store)
    assert await prover.look(Stored(campaign), frozenset()) is None
    for number in range(3):
        assert await scan_part(engine, campaign, number, claim, Brake())
    proof = await prover.look(Stored(campaign), frozenset())
    assert proof is not None
    [found] = proof.resources
    counts = {key.fingerprint: under.objects for key, under in found.keys.items()}
    assert (counts[fingerprint_of(former)], counts[fingerprint_of(target)], found.objects) == (2, 1, len(names))
    assert (counts["others"], len(counts)) == (50, 203)


async def test_a_part_that_is_deleted_while_the_others_are_scanned_is_missed_before_the_proof_counts() -> None:
    store = MemoryStore()
    for number in range(4):
        key = f"/registry/secrets/default/{number}".encode()
        store.put(key, CHAIN.seal(OBJECT, key))
    provider = KeyedProvider(ProviderType.AESGCM, (Key("k", SecretBytes(b"k" * 32)),))
    generation = Generation("sha256:0", EncryptionConfiguration((ResourceEntry(("secrets",), (provider,)),)), "test")
    engine = Engine(store, Settings(), generation, LocalPace(0))
    lock, hold = b"/kube-rewrap/v1/owner", b"/kube-rewrap/v1/claims/c/0"
    guard = Expect(lock, (await store.commit([], [Put(lock, b"me")])).revision)
    claim = Expect(hold, (await store.commit([], [Put(hold, b"me")])).revision)
    campaign = Campaign(
        id="c",
        state=CampaignState.PROVING,
        generation="sha256:0",
        scope=Scope(("secrets",)),
        batches=1,
        planned_at="2026-01-01T00:00:00+00:00",
        because="why",
        whole=True,
    )
    cluster = Cluster(Settings(), Layout(), engine)
    prover = PartsProver(cluster, NoScanners(), guard, spec_of(campaign), part_objects=2)

    async def look() -> Inventory | None:
        return await prover.look(Stored(campaign), frozenset())

    assert await look() is None
    parts = engine.keyspace.proofs("c")
    count = await store.count(parts)
    assert count >= 2
    assert await scan_part(engine, campaign, 0, claim, Brake())
    assert await look() is None
    store.delete(engine.keyspace.proof("c", 0))
    for number in range(1, count):
        assert await scan_part(engine, campaign, number, claim, Brake())
    assert await look() is None
    assert await store.count(parts) == count  # it has begun again
    for number in range(count):
        assert await scan_part(engine, campaign, number, claim, Brake())
    proof = await look()
    assert proof is not None
    assert (proof.objects, proof.is_clean) == (4, True)
