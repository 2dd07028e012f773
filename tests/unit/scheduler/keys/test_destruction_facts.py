"""Which keys are judged, and what the cluster says of each: scenarios."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.destruction import IN_FILE, Candidate
from kube_rewrap.scheduler.keys.destruction_facts import OTHER_TYPE, UNKNOWN_KEK, candidates
from kube_rewrap.scheduler.keys.removal import Surroundings, judge_keys
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.verdict import KeyRef
from kube_rewrap.worker.wrapped import fingerprint_of, hash_of_key_id
from tests.integration.apiserver import Key, configuration
from tests.unit.scheduler.backups.backups import backup
from tests.unit.scheduler.inventories import proof, tally

FREE = Surroundings("", campaign_unfinished=False, whole=True, proof_revision=70, compacted=True)
FIRST, OLD = Key.new("secretbox", "first"), Key.new("aescbc", "old")
HASH = hash_of_key_id("arn:1")
KEK = KeyRef("kms", "cloud", fingerprint_of(HASH))
READER, V1 = replace(KEK, fingerprint="v2"), replace(KEK, name="former", fingerprint="v1")
NEW_KEK = KeyRef("kms", "new", fingerprint_of(hash_of_key_id("arn:2")))


def ref(key: Key) -> KeyRef:
    return KeyRef(key.provider, key.name, key.fingerprint)


def generation(*keys: Key, file: str = "enc.json") -> Generation:
    return load_generation(configuration((["secrets"], keys)).encode(), file)


def judged(scan: Inventory, around: Surroundings = FREE) -> RemovalVerdicts:
    return RemovalVerdicts(
        tuple(judge_keys(scan, around)), scan, Convergence(is_converged=True, file_hash="", because=""), 70, around
    )


def candidate(key: KeyRef, scan: Inventory, around: Surroundings = FREE, archived: tuple[Key, ...] = ()) -> Candidate:
    """The key, which a backup needs, under a present file with FIRST alone."""
    catalogue = Catalogue((backup(1, keys=(key,)),))
    files = [generation(*archived, file="archive/1")] if archived else []
    found = candidates(generation(FIRST), files, judged(scan, around), catalogue)
    [one] = [one for one in found if one.key == key]
    return one


def clean(*configured: KeyRef) -> Inventory:
    return proof(tally({ref(FIRST): 5}, primary=ref(FIRST), configured=(ref(FIRST), *configured)))


def test_a_key_that_left_the_file_and_the_cluster_has_no_blocker() -> None:
    found = candidate(ref(OLD), clean(), archived=(OLD,))
    assert (found.cluster, found.configured, found.files) == ((), False, ("archive/1",))


@pytest.mark.parametrize("kind", ["aescbc", "aesgcm"])
def test_key_bytes_that_the_present_file_has_under_another_type_stay(kind: str) -> None:
    same = replace(OLD, provider=kind, name="other", material=FIRST.material)
    found = candidate(ref(same), clean(), archived=(same,))
    assert OTHER_TYPE in found.cluster
    assert ref(FIRST).fingerprint in {one.fingerprint for one in found.also}
    assert OTHER_TYPE not in candidate(ref(OLD), clean(), archived=(OLD,)).cluster


def test_the_same_bytes_under_another_name_are_the_same_key() -> None:
    [found] = candidates(generation(FIRST), [generation(replace(FIRST, name="x"))], judged(clean()), Catalogue())
    assert (found.names, found.configured, IN_FILE in found.cluster) == (("first", "x"), True, False)


def writing(key: KeyRef, under: dict[KeyRef, int]) -> Inventory:
    return proof(tally(under, primary=key, configured=(key,)))


@pytest.mark.parametrize(
    ("scan", "around", "blocker"),
    [
        pytest.param(clean(), FREE, "", id="no KMS provider is in the file"),
        pytest.param(clean(READER), FREE, UNKNOWN_KEK, id="its provider only reads"),
        pytest.param(clean(replace(READER, name="x")), FREE, UNKNOWN_KEK, id="a provider of another name only reads"),
        pytest.param(clean(V1), FREE, UNKNOWN_KEK, id="a provider of KMS v1 only reads"),
        pytest.param(writing(NEW_KEK, {NEW_KEK: 5}), FREE, "", id="another one writes under another KEK"),
        pytest.param(
            writing(replace(KEK, name="x"), {}), FREE, "it is the primary of secrets", id="another one writes under it"
        ),
        pytest.param(
            writing(NEW_KEK, {NEW_KEK: 5, replace(KEK, name="x"): 2}),
            FREE,
            "2 objects are under it",
            id="objects of another one are under it",
        ),
        pytest.param(
            writing(NEW_KEK, {NEW_KEK: 5, replace(NEW_KEK, name="x", fingerprint="others"): 3}),
            FREE,
            "3 objects do not name their KEK: some of them may be under it",
            id="objects of another one were counted together",
        ),
        pytest.param(
            writing(NEW_KEK, {NEW_KEK: 5}),
            replace(FREE, keks=(Kek(provider="new", target=hash_of_key_id("arn:2"), since=1.0, named=HASH),)),
            "the KMS provider new uses it",
            id="the plugin of another one names it",
        ),
        pytest.param(
            clean(),
            replace(FREE, keks=(Kek(provider="gone", target=HASH, since=1.0),)),
            "",
            id="the record of a provider that left the file",
        ),
        pytest.param(
            proof(tally({NEW_KEK: 4}, {ref(OLD): 1}, primary=NEW_KEK, configured=(NEW_KEK,))),
            FREE,
            "1 unreadable objects may be under it",
            id="an object is unreadable",
        ),
    ],
)
def test_what_speaks_against_a_kek(scan: Inventory, around: Surroundings, blocker: str) -> None:
    found = candidate(KEK, scan, around)
    assert (blocker in found.cluster) if blocker else (found.cluster == ())


def test_a_former_kek_of_a_provider_that_writes_stays_while_an_object_is_unreadable() -> None:
    around = replace(FREE, keks=(Kek(provider="new", target=hash_of_key_id("arn:2"), since=1.0, former=(HASH,)),))
    former, other = replace(KEK, name="new"), replace(KEK, name="gone")
    assert candidate(former, writing(NEW_KEK, {NEW_KEK: 5}), around).cluster == ()
    scan = proof(tally({NEW_KEK: 4}, {other: 1}, primary=NEW_KEK, configured=(NEW_KEK,)))
    assert "1 unreadable objects may be under it" in candidate(former, scan, around).cluster
