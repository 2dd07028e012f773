"""A worker whose plugin turns to another KEK in the middle of a batch: it hands the batch back, and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, KmsProvider, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings, Settings
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.take_up import take_up
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import EVERYTHING
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.queue.execution import ChildTools, rewrite
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.rate.shared import open_pace
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.claims import Claims
from kube_rewrap.worker.records.handbacks import Handbacks
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.objects import OLD, fill
from tests.fakes.store import MemoryStore
from tests.servers.kms_plugin import start_plugin
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(60)


async def test_case_18_a_worker_whose_plugin_turns_to_another_kek_hands_the_batch_back(
    redis: RedisServer, tmp_path: Path
) -> None:
    store, settings, socket = MemoryStore(), Settings(), str(tmp_path / "kms.sock")
    fill(store, OLD, 12, "secrets")
    provider = KmsProvider("v2", "cloud", f"unix://{socket}", 3.0, None)
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), (provider, OLD)),))
    aimed = Generation("sha256:" + "1" * 64, configuration, "test").aimed({"cloud": hash_of_key_id("kek-1")})
    broker = BrokerSettings(url=SecretBytes(redis.url.encode()))
    with start_plugin(socket) as plugin:
        async with (
            open_plugins(KmsClient, lambda _: LocalPace(0)) as leaders,
            open_plugins(KmsClient, lambda _: LocalPace(0)) as workers,
            open_pace(broker, "test", 0.0, 8) as pace,
        ):
            engine = Engine(store, settings, aimed, LocalPace(0), PluginKeys(workers, settings.kms))
            leader = Engine(store, settings, aimed, LocalPace(0), PluginKeys(leaders, settings.kms))
            cluster = Cluster(settings, Layout(), leader)
            async with hold_lock(cluster, Brake()) as lock:
                plan = await plan_run(cluster, EVERYTHING)
                await begin_budgets(cluster, plan.estimate)
                name = (await take_up(cluster, plan, lock.guard)).value.id
                assert await engine.is_aimed()
                tools = ChildTools(settings, engine, pace)

                plugin.rotate("kek-2")
                done = await rewrite(tools, name, 0)
                assert done.outcome == "handed_back"
                assert "a worker whose plugin names the target can go on" in done.because
                batch = (await Checkpoints(store, engine.keyspace).load(name, 0)).value
                assert (batch.stalled, batch.cursor, batch.report.encryptions) == (0, b"", 0)
                assert len(await Handbacks(store, engine.keyspace).all()) == 1
                assert not await Claims(store, engine.keyspace).held(name)
                assert engine.is_refuted
                assert not await engine.is_aimed()

                plugin.behaviour = replace(plugin.behaviour, key_id="kek-1")
                assert (await rewrite(tools, name, 0)).outcome == "worked"
                batch = (await Checkpoints(store, engine.keyspace).load(name, 0)).value
                assert (batch.report.rewritten, batch.state.value) == (12, "done")
