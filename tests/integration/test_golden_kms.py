"""The whole recorded registry in a real etcd, moved from each provider to KMS and back, compared with upstream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import EtcdSettings, KmsSettings, Settings
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import survey_cluster
from kube_rewrap.worker.data_keys import DataKeys
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.providers.chain import Opened
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.budget import has_budget
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.plugins import MemoryPlugins
from tests.golden.recording import FOLDER
from tests.integration.golden_registry import load, recorded
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import start_plugin

PLAINTEXTS = {one.key: one.plaintext for one in recorded() if one.resource is not None}
ALL = len(PLAINTEXTS)
STEPS = [
    # The primary, and how many keys the rewrap has unwrapped and made.
    ("kmsnew", 33 + 1, 1),  # as recorded: 33 values of v1, and 35 of v2 under one source, which stay
    ("cbc", 1 + 1, 0),  # that source, and our seed
    ("kmsold", 0, ALL),
    ("box", ALL, 0),
    ("kmsnew", 0, 1),
    ("gcm", 1, 0),
    ("kmsold", 0, ALL),
    ("kmsnew", ALL, 1),
    ("identity", 1, 0),
    ("kmsnew", 0, 1),
]


def configuration(writer: str, plugin_endpoint: str = "") -> bytes:
    """The recorded configuration, with the provider first that has this in its name, and one plugin for both of KMS."""
    document = json.loads((FOLDER / "encryption-config.json").read_bytes())
    [entry] = document["resources"]
    for provider in entry["providers"]:
        if plugin_endpoint and "kms" in provider:
            provider["kms"]["endpoint"] = plugin_endpoint
    entry["providers"].sort(key=lambda one: writer not in json.dumps(one))
    return json.dumps(document).encode()


@asynccontextmanager
async def engine_of(
    endpoints: list[str], writer: str, plugins: DataKeys, plugin_endpoint: str = ""
) -> AsyncIterator[tuple[Engine, Cluster]]:
    settings = replace(Settings(), etcd=EtcdSettings(endpoints=tuple(endpoints), call_timeout=5.0, give_up_after=20.0))
    generation = load_generation(configuration(writer, plugin_endpoint), "test")
    async with open_store(settings.etcd, settings.keyspace.state_prefix, settings.page.bytes) as store:
        engine = Engine(store, settings, generation, LocalPace(0), plugins)
        engine.chains.aim({"kmsnew": hash_of_key_id("kek-1")})
        yield engine, Cluster(settings, Layout(), engine)


async def rewrap_all(engine: Engine, cluster: Cluster, campaign: str) -> BatchReport:
    report = BatchReport()
    for number, one in enumerate((await survey_cluster(cluster)).governed):
        keys = engine.chains[one.resource].keys
        await engine.ledger.first_sight([key for key in keys if has_budget(key)])
        spec = BatchSpec(
            campaign=campaign, number=number, resource=one.resource, range=one.range, generation=engine.generation.hash
        )
        await Checkpoints(engine.store, engine.keyspace).save(Stored(Checkpoint(spec=spec)))
        report += await engine.run(spec, None, Brake(), allow_plaintext=True)
    return report


@pytest.mark.timeout(120)
async def test_the_recorded_registry_moves_to_kms_and_back_byte_for_byte(etcd: EtcdCluster) -> None:
    load(etcd.admin())
    for number, (writer, unwrapped_keys, new_keys) in enumerate(STEPS):
        plugins = MemoryPlugins()
        async with engine_of(etcd.endpoints, writer, plugins) as (engine, cluster):
            report = await rewrap_all(engine, cluster, f"c{number}")
            assert (report.objects, report.quarantined, report.conflicts) == (ALL, 0, 0)
            assert (len(plugins.asked), len(plugins.made)) == (unwrapped_keys, new_keys)
            await assert_each_is_current(engine, cluster, plugins)


async def assert_each_is_current(engine: Engine, cluster: Cluster, plugins: DataKeys) -> None:
    """The primary opens each object, to upstream's bytes."""
    governed = (await survey_cluster(cluster)).governed
    found = await engine.inventory(governed, await engine.store.revision())
    assert (found.objects, found.stale, found.unreadable) == (ALL, 0, 0)
    opened = {}
    for one in governed:
        page, chain = await engine.store.page(one.range, 1000), engine.chains[one.resource]
        unwrapped = await plugins.fetch(chain.all_wanted(item.value for item in page.items))
        for item in page.items:
            result = chain.open(item.value, item.key, unwrapped)
            assert isinstance(result, Opened)
            assert result.is_primary
            opened[key_text(item.key)] = result.plaintext
    assert opened == PLAINTEXTS


CALLS = [
    # Of each step's process: Decrypt and Encrypt of v1, Decrypt and Encrypt of v2. A seed takes two of Encrypt.
    (33, 0, 1 + 1, 2),
    (0, 0, 2, 0),
    (ALL, ALL, 0, 0),  # each new data key is unwrapped once before its use
    (ALL, 0, 0, 0),
    (0, 0, 1, 2),
    (0, 0, 1, 0),
    (ALL, ALL, 0, 0),
    (ALL, 0, 1, 2),
    (0, 0, 1, 0),
    (0, 0, 1, 2),
]
COUNTED = ("v1beta1.Decrypt", "v1beta1.Encrypt", "v2.Decrypt", "v2.Encrypt")


@pytest.mark.timeout(240)
async def test_case_1_the_recorded_registry_moves_through_a_plugins_socket_with_the_calls_that_it_takes(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    """As above, but with keyring, writer and client beside a plugin that wraps as the recording's did."""
    load(etcd.admin())
    kms = KmsSettings(v1_rate=0, v2_rate=0)
    with start_plugin(str(tmp_path / "kms.sock")) as plugin:
        for number, ((writer, _, _), calls) in enumerate(zip(STEPS, CALLS, strict=True)):
            async with open_plugins(KmsClient, lambda _: LocalPace(0)) as plugins:
                keys = PluginKeys(plugins, kms)
                async with engine_of(etcd.endpoints, writer, keys, plugin.endpoint) as (engine, cluster):
                    plugin.calls.clear()
                    report = await rewrap_all(engine, cluster, f"p{number}")
                    assert (report.objects, report.quarantined, report.conflicts) == (ALL, 0, 0)
                    assert tuple(plugin.calls[method] for method in COUNTED) == calls
                    await assert_each_is_current(engine, cluster, keys)
                    # Reading all again costs a call for each object of v1, and none for v2.
                    read_again = (ALL if writer == "kmsold" else 0, 0, 0, 0)
                    both = tuple(map(sum, zip(calls, read_again, strict=True)))
                    assert tuple(plugin.calls[method] for method in COUNTED) == both
