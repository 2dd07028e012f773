"""Which key encrypts what: counted at one revision, or not at all."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.configuration import IdentityProvider, Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.pages import PageSizer
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from kube_rewrap.worker.inventory import take_inventory
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceRange, Unreadable
from kube_rewrap.worker.verdict import Reason
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESCBC, (Key("old", SecretBytes(b"o" * 32)),))
CHAIN = Chain([NEW, OLD, IdentityProvider()])
SECRETS = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))


class Compacting(MemoryStore):
    """Compacts everything away, and writes something, behind the first page of each of some scans."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        if self.left:
            self.left -= 1
            key = b"/registry/secrets/late/%d" % self.left
            self.put(key, CHAIN.seal(OBJECT, key))
            self.compact()
        return page


def fill(store: MemoryStore, count: int = 3) -> None:
    for number in range(count):
        for name, chain in (("new", Chain([NEW])), ("old", Chain([OLD])), ("plain", Chain([IdentityProvider()]))):
            key = f"/registry/secrets/{name}/{number}".encode()
            store.put(key, chain.seal(OBJECT, key))


async def take(store: MemoryStore, *, page: int = 500) -> Inventory:
    sizer = PageSizer(PageSettings(objects=page))
    return await take_inventory(store, [SECRETS], {"secrets": CHAIN}, sizer, await store.revision())


async def test_objects_are_counted_by_the_key_that_opens_them() -> None:
    store = MemoryStore()
    fill(store)
    store.put(b"/registry/secrets/x/1", b"garbage")
    store.put(b"/registry/secrets/x/2", b"k8s:enc:aescbc:v1:old:short")
    store.put(b"/registry/secretsfoo/x", OBJECT)
    found = await take(store)
    (tally,) = found.resources
    new, old, plain = CHAIN.keys
    gcm_size, cbc_size = len(CHAIN.seal(OBJECT, b"")), len(Chain([OLD]).seal(OBJECT, b""))
    assert tally.keys == {
        new: KeyTally(3, 3 * gcm_size, 3),
        old: KeyTally(3, 3 * cbc_size, 3),
        plain: KeyTally(3, 3 * len(OBJECT), 3),
    }
    assert (found.objects, found.stale, found.unreadable, found.is_clean) == (11, 6, 2, False)
    assert found.stale_bytes == 3 * (cbc_size + len(OBJECT))
    assert [(one.key, one.reason) for one in tally.listed] == [
        (b"/registry/secrets/x/1", Reason.UNKNOWN_BYTES),
        (b"/registry/secrets/x/2", Reason.NOT_RECOGNISED),
    ]
    assert tally.claimed == {old: 1}
    assert found.revision == await store.revision()


async def test_only_what_is_all_under_the_primary_is_clean() -> None:
    store = MemoryStore()
    key = b"/registry/secrets/a/1"
    store.put(key, CHAIN.seal(OBJECT, key))
    assert (await take(store)).is_clean
    store.put(b"/registry/secrets/a/2", OBJECT)
    assert not (await take(store)).is_clean


async def test_versions_estimate_how_often_a_key_has_encrypted() -> None:
    store = MemoryStore()
    key = b"/registry/secrets/a/1"
    for _ in range(5):
        store.put(key, Chain([OLD]).seal(OBJECT, key))
    found = await take(store)
    new, old = (key.fingerprint for key in CHAIN.keys[:2])
    assert {name: found.estimate().under(name) for name in (new, old)} == {new: {"secrets": 0}, old: {"secrets": 5}}


async def test_a_scan_of_a_revision_that_is_compacted_away_is_none() -> None:
    store = Compacting(times=1)
    fill(store, 4)
    with pytest.raises(CompactedError):
        await take(store, page=5)


def test_an_unreadable_object_in_json() -> None:
    assert Unreadable(b"/k\xff", Reason.KMS_REFUSED, "why").to_json() == {
        "key": "/k\udcff",
        "reason": "kms_refused",
        "detail": "why",
    }
