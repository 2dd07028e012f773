"""Stored values on which a KMS plugin breaks as if it were down: `rewrap run` goes on without them, after minutes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.command import command_for
from tests.integration.apiserver import IDENTITY, Key, configure, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as process:
        yield process


def test_values_on_which_the_plugin_breaks_are_left_alone_and_the_next_run_takes_them(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin
) -> None:
    gateway, new = etcd.admin(), Key.new("aesgcm", "new")
    old = KmsKey("cloud", plugin.endpoint)
    plaintexts = secrets(40)
    store(gateway, plaintexts, old)
    breaking = [KmsKey("cloud", plugin.endpoint) for _ in range(12)]
    for number, key in enumerate(breaking):
        [(name, plaintext)] = secrets(1, namespace=f"a{number:02}").items()
        gateway.put(name, key.seal(name, plaintext))
        plaintexts[name] = plaintext
    sources = [hashlib.sha256(base64.b64encode(key.seed)).hexdigest() for key in breaking]
    plugin.behaviour = replace(plugin.behaviour, fail_sources=dict.fromkeys(sources, "INTERNAL"))
    file = configure(tmp_path, new, old, IDENTITY)
    command = command_for(tmp_path, etcd, file)

    ended = command.run("run", "-o", "json", seconds=600)
    assert ended.code == 3, f"{ended.code}: {ended.stdout}{ended.stderr}"
    assert ended.document["rewritten"] == 40
    assert {one["reason"] for one in ended.document["quarantined"]} == {"kms_refused"}
    assert len(ended.document["quarantined"]) == len(breaking)
    assert ended.document["seconds"] >= 180
    assert "kms.source_failing" in ended.stderr
    assert "kms.source_refused" in ended.stderr

    plugin.behaviour = replace(plugin.behaviour, fail_sources={})
    ended = command.run("run", "-o", "json", seconds=600)
    assert (ended.code, ended.document["rewritten"]) == (0, len(breaking)), ended.stderr
    found = {one.key: new.open(one.key, one.value) for one in gateway.read("/registry/")}
    assert found == plaintexts
