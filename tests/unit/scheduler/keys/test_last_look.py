"""Before a key is called destroyable, every value of etcd is looked at: in the registry, and beside it."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.provider import Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.destruction import NO_SPARE, Candidate
from kube_rewrap.scheduler.keys.last_look import ROTATING, Rest, judge_in_cluster, look_through
from kube_rewrap.scheduler.keys.removal import Surroundings
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts
from kube_rewrap.worker.errors import RequestRefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.objects import NEW, OBJECT, OLD, fill, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.backups.backups import KEK, NOW, backup
from tests.unit.scheduler.campaigns.harness import new_cluster
from tests.unit.scheduler.daemon.leader import ROTATION

ROOT = b"/registry/"
SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
OLD_KEY = KeyRef("aescbc", "old", "0123456789abcdef")
GONE = Candidate(OLD_KEY, ("old",), ("archive/1",), configured=False, removable=None, in_use=0, cluster=())
GONE_KEK = Candidate(KEK, ("cloud",), (), configured=False, removable=None, in_use=0, cluster=())
FREE = Surroundings("", campaign_unfinished=False, whole=True, proof_revision=1, compacted=True)
JUDGED = RemovalVerdicts((), Inventory(1, ()), Convergence(is_converged=True, file_hash="", because=""), 1, FREE)


def plain(store: MemoryStore, *keys: str) -> None:
    for key in keys:
        store.put(key.encode(), OBJECT)


async def blockers(store: MemoryStore, one: Candidate = GONE) -> tuple[str, ...]:
    """What is said of a key that nothing else speaks against; secrets are governed, by NEW."""
    fill(store, NEW)
    [verdict] = await judge_in_cluster(new_cluster(store, NEW), [one], JUDGED, lambda: Catalogue((backup(1),)), NOW)
    assert verdict.destroyable is (not verdict.blockers)
    return verdict.blockers


async def test_nothing_is_found_where_only_plaintext_is() -> None:
    store = MemoryStore()
    plain(store, "/a", "/registry/configmaps/a/b", "/registry/pods/a/b", "/registry0", "/zz", "\U0010ffff")
    assert await blockers(store) == ()


@pytest.mark.parametrize(
    "key",
    [
        *("/registry/a", "/registry/configmaps/default/x", "/registry/pods/x", "/registry/secrets0", "/registry/z/x/y"),
        *("/registry/secret/x", "/registry/ranges/serviceips", "/registry/example.com/widgets/x"),
    ],
)
async def test_an_encrypted_object_that_no_entry_governs_blocks_every_key(key: str) -> None:
    store = MemoryStore()
    seal(store, key, KeyedProvider(ProviderType.SECRETBOX, (Key("x", SecretBytes(b"b" * 32)),)))
    for one in (GONE, GONE_KEK):
        [because] = await blockers(store, one)
        assert because.startswith("1 encrypted objects that no entry governs may be under it: /registry/")


@pytest.mark.parametrize("key", ["/a/secrets/x", "/kubernetes.io/secrets/a/b", "/registry", "/registry0/x", "\0", "~"])
async def test_a_value_outside_the_registry_blocks_the_key_that_it_names(key: str) -> None:
    store = MemoryStore()
    seal(store, key, OLD)
    assert await blockers(store) == ("values outside /registry/ have the prefix of its values",)
    assert await blockers(store, GONE_KEK) == ()
    other = MemoryStore()
    seal(other, key, NEW)
    assert await blockers(other) == ()


async def test_its_bytes_under_another_type_are_looked_for_too() -> None:
    store = MemoryStore()
    seal(store, "/kubernetes.io/secrets/a/b", OLD)
    twin = Candidate(
        KeyRef("aesgcm", "old", "aa"), ("old",), ("f",), configured=False, removable=None, in_use=0, cluster=(),
        also=(OLD_KEY,),
    )  # fmt: skip
    assert len(await blockers(store, twin)) == 1


async def test_a_value_of_kms_outside_the_registry_blocks_every_kek() -> None:
    store = MemoryStore()
    store.put(b"/kubernetes.io/secrets/a/b", b"k8s:enc:kms:v1:other:")
    assert len(await blockers(store, GONE_KEK)) == 1
    assert await blockers(store) == ()


class Closed(MemoryStore):
    """Lets a user read below some prefixes alone, by default as docs/etcd-tls-and-passwords.md grants it."""

    def __init__(self, lets: tuple[bytes, ...] = (ROOT, b"/kube-rewrap/")) -> None:
        super().__init__()
        self.lets = lets

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        for allowed in self.lets:
            whole = KeyRange.of_prefix(allowed)
            if whole.start <= keys.start and keys.end <= whole.end:
                return await super().page(keys, limit, revision=revision, since=since)
        raise RequestRefusedError("etcd denied permission")


async def test_what_this_user_can_not_look_at_may_be_under_it() -> None:
    assert await blockers(Closed()) == ("etcd does not let this user look outside /registry/: values may be under it",)


async def test_nothing_is_read_for_keys_that_have_other_blockers() -> None:
    store = Closed(lets=())
    fill(store, NEW)
    [verdict] = await judge_in_cluster(new_cluster(store, NEW), [GONE], JUDGED, Catalogue, NOW)
    assert verdict.blockers == (NO_SPARE,)


async def test_a_backup_that_was_added_during_the_look_counts() -> None:
    store = MemoryStore()
    fill(store, NEW)
    states = [Catalogue((backup(1),)), Catalogue((backup(1), backup(2, keys=(OLD_KEY,))))]
    read = iter(states).__next__
    [verdict] = await judge_in_cluster(new_cluster(store, NEW), [GONE], JUDGED, read, NOW)
    [because] = verdict.blockers
    assert because.startswith("backups need it: ")


async def test_a_rotation_under_way_blocks_every_key() -> None:
    store = MemoryStore()
    await Rotations(store, new_cluster(store, NEW).engine.keyspace).replace(ROTATION)
    assert await blockers(store) == (ROTATING,)


async def test_the_registry_is_counted_whole_and_governed_ranges_are_left_out() -> None:
    store = MemoryStore()
    fill(store, NEW)
    for number in range(50):
        seal(store, f"/registry/configmaps/a/{number}", NEW)
        seal(store, f"/registry/x{number}/a", NEW)
    rest = await look_through(store, ROOT, [SECRETS])
    assert (rest.ungoverned, len(rest.paths), rest.outside) == (100, 3, frozenset())
    whole = await look_through(store, ROOT, [KeyRange.of_prefix(ROOT)])
    assert whole == Rest(ROOT)
