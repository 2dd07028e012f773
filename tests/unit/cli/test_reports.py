"""What `status` says of values that it did not open."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.reports import print_inventory, status_json
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.etcd.pages import PageSizer
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.inventory import take_inventory
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.objects import NEW, fill
from tests.fakes.plugins import MemoryPlugins
from tests.fakes.store import MemoryStore
from tests.unit.worker.providers.kms_values import v2_body

KMS = KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)
CHAIN = Chain([KMS, NEW], targets={"cloud": hash_of_key_id("kek-1")})


async def inventory(store: Store, *, peeks: bool) -> Inventory:
    secrets = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))
    sizer, plugins = PageSizer(PageSettings(objects=5)), MemoryPlugins()
    revision = await store.revision()
    return await take_inventory(store, [secrets], {"secrets": CHAIN}, sizer, revision, data_keys=plugins, peeks=peeks)


async def test_values_under_kms_that_were_not_opened_are_not_called_readable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = MemoryStore()
    fill(store, NEW, 3)
    for number in range(20):
        junk = v2_body(bytes(100), b"kek-1", b"no source at all")
        store.put(b"/registry/secrets/default/junk-%02d" % number, b"k8s:enc:kms:v2:cloud:" + junk)
    found = await inventory(store, peeks=True)
    assert (status_json(found)["peeked"], status_json(found)["unreadable"], found.is_clean) == (20, 0, False)
    print_inventory(found)
    assert "20 under KMS were not opened, and count by the key that they name" in capsys.readouterr().out
    opened = await inventory(store, peeks=False)
    assert (status_json(opened)["peeked"], status_json(opened)["unreadable"]) == (0, 20)
    print_inventory(opened)
    assert "were not opened" not in capsys.readouterr().out


async def test_without_a_value_under_kms_nothing_is_left_unopened() -> None:
    store = MemoryStore()
    fill(store, NEW, 3)
    assert (await inventory(store, peeks=True)).peeked == 0
