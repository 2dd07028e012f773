"""A client that writes to etcd invents key ids: objects under a KEK on record are counted by it all the same."""

from __future__ import annotations

import base64

import pytest

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, KmsProvider, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.keys.removal import Surroundings, judge_keys
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef
from kube_rewrap.worker.wrapped import fingerprint_of, hash_of_key_id
from tests.fakes.objects import OBJECT
from tests.fakes.plugins import MemoryPlugins
from tests.fakes.store import MemoryStore
from tests.unit.worker.providers.kms_values import type_1, v2_body

SEED = b"s" * 32
NOW, FORMER = hash_of_key_id("kek-1"), hash_of_key_id("kek-0")
KMS = KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)
GENERATION = Generation(
    "sha256:0", EncryptionConfiguration((ResourceEntry(("secrets",), (KMS,)),)), "test", {"cloud": NOW}
)


@pytest.mark.parametrize("is_recorded", [True, False], ids=["on record", "not on record"])
async def test_a_former_kek_is_not_removable_under_a_flood_of_key_ids(is_recorded: bool) -> None:
    store = MemoryStore()
    engine = Engine(store, Settings(), GENERATION, LocalPace(0), MemoryPlugins())
    kek = Kek(provider="cloud", target=NOW, since=1.0, former=(FORMER,))
    if is_recorded:
        await Keks(store, engine.keyspace).save(Stored(kek))
    for number in range(260):
        key = b"/registry/secrets/default/%03d" % number
        key_id = b"kek-0" if number >= 250 else b"made-up-%d" % number
        body = v2_body(type_1(SEED, OBJECT, key), key_id, base64.b64encode(SEED))
        store.put(key, b"k8s:enc:kms:v2:cloud:" + body)
    secrets = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))
    found = await engine.inventory([secrets], await store.revision())
    former = KeyRef("kms", "cloud", fingerprint_of(FORMER))
    assert (found.objects, counted(found, former)) == (260, 10 if is_recorded else 0)
    keks = (kek,) if is_recorded else ()
    around = Surroundings("", campaign_unfinished=False, whole=True, proof_revision=100, compacted=True, keks=keks)
    verdicts = {one.key: one for one in judge_keys(found, around)}
    assert not any(one.removable for one in verdicts.values())
    if is_recorded:
        assert verdicts[former].blockers[0] == "10 objects are under it"


def counted(found: Inventory, key: KeyRef) -> int:
    [tally] = found.resources
    return tally.keys[key].objects if key in tally.keys else 0


async def test_the_keys_to_try_a_plugin_with_are_few_and_of_governed_ranges_alone() -> None:
    store = MemoryStore()
    engine = Engine(store, Settings(), GENERATION, LocalPace(0), MemoryPlugins())
    for number in range(20):
        body = v2_body(bytes(100), b"kek-1", b"source-%d" % number)
        store.put(b"/registry/secrets/default/%02d" % number, b"k8s:enc:kms:v2:cloud:" + body)
    secrets, everything = KeyRange.of_prefix(b"/registry/secrets/"), KeyRange.of_prefix(b"/registry/")
    forged = [ResourceRange("configmaps", secrets), ResourceRange("secrets", everything), ResourceRange("", secrets)]
    assert await engine.wrapped_keys(forged) == ()
    wanted = await engine.wrapped_keys([*forged, ResourceRange("secrets", secrets)])
    assert [one.wrapped for one in wanted] == [b"source-%d" % number for number in range(8)]
