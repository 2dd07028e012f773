"""Case 25 for whole processes: key ids, annotations and errors of a plugin hold account numbers and terminal escapes,
seeds, data keys and objects hold marks; nothing of them is in what a process prints, or in what it records in etcd."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, Ended, command_for
from tests.acceptance.marks import BOX, CBC, GCM, LOST, PAYLOAD, marks_in
from tests.integration.apiserver import IDENTITY, configuration, manifest, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey
from tests.unit.worker.providers.kms_values import gcm, type_1, v1_body, v2_body

pytestmark = pytest.mark.timeout(180)

ACCOUNT = "111122223333"
RED = "\x1b[31mCanaryRed"
KEY_ID = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/{RED}"
ANNOTATION = "canary-annotation.example.com"
TOLD = f"{RED} denied for arn:aws:iam::{ACCOUNT}:role/canary {PAYLOAD}"
UNTRUSTED = (ACCOUNT, "arn:aws", "CanaryRed", "\x1b", "\\x1b", "\\u001b", "CanaryAnnotation", ANNOTATION)

SECRETS = "/registry/secrets/default/"
BEHAVIOURS: dict[str, dict[str, Any]] = {
    "sound": {},
    "every Decrypt fails": {"fail": {"v2.Decrypt": "UNKNOWN", "v1beta1.Decrypt": "UNKNOWN"}},
    "every call is denied": {"fail": {"*": "PERMISSION_DENIED"}},
    "every call is internal": {"fail": {"*": "INTERNAL"}},
    "not healthy": {"healthz": TOLD},
    "another version": {"v2_version": TOLD, "v1_version": TOLD},
    "other bytes": {"wrong_bytes": -1},
    "other key ids": {"encrypt_key_id": f"{KEY_ID}/other"},
}

QUICK = ("sound", "other bytes")
"""The others make each command wait for pauses between tries."""


@dataclass(frozen=True)
class Scene:
    plugin: KmsPlugin
    rewrap: Command
    gateway: Gateway


@pytest.fixture
def scene(etcd: EtcdCluster, tmp_path: Path) -> Iterator[Scene]:
    """Objects under KMS v1 and v2, sound and forged, and a plugin for both."""
    annotations = {ANNOTATION: f"CanaryAnnotation {RED}"}
    behaviour = Behaviour(key_id=KEY_ID, fail_text=TOLD, annotations=annotations)
    with start_plugin(str(tmp_path / "kms.sock"), behaviour) as plugin:
        cloud = KmsKey("cloud", plugin.endpoint, KEY_ID, seed=GCM.material)
        old = {"kms": {"name": "old", "endpoint": plugin.endpoint, "timeout": "3s"}}
        document = json.loads(configuration((["secrets"], [cloud, CBC, IDENTITY])))
        document["resources"][0]["providers"].insert(1, old)
        file = write_private(tmp_path / "enc.json", json.dumps(document))
        gateway = etcd.admin()
        store(gateway, {f"{SECRETS}c{n}": secret(f"c{n}") for n in range(3)}, cloud)
        store(gateway, {f"{SECRETS}l{n}": secret(f"l{n}") for n in range(3)}, CBC)
        gateway.put_all(forged())
        command = command_for(tmp_path, etcd, file).with_environment(REWRAP_LOG_LEVEL="debug", REWRAP_TRACEBACK="1")
        yield Scene(plugin, command, gateway)


def secret(name: str) -> bytes:
    return manifest("Secret", "default", name, PAYLOAD)


def forged() -> dict[str, bytes]:
    """What an attacker may write, and values of v1."""
    values = {}
    for name in ("f-key-id", "f-annotation", "f-type-0", "f-source", "f-moved", "f-data"):
        key = f"{SECRETS}{name}"
        data, seed = type_1(BOX.material, secret(name), key.encode()), base64.b64encode(BOX.material)
        body = {
            "f-key-id": v2_body(data, f"{RED} {ACCOUNT}".encode(), seed),
            "f-annotation": v2_body(data, KEY_ID.encode(), seed, [(ANNOTATION.encode(), TOLD.encode())]),
            "f-type-0": v2_body(gcm(BOX.material, secret(name), key.encode()), KEY_ID.encode(), seed, kind=0),
            "f-source": v2_body(data, KEY_ID.encode(), f"{RED} {ACCOUNT}".encode()),
            "f-moved": v2_body(type_1(BOX.material, secret(name), b"elsewhere"), KEY_ID.encode(), seed),
            "f-data": v2_body(LOST.material + data, KEY_ID.encode(), seed),
        }[name]
        values[key] = b"k8s:enc:kms:v2:cloud:" + body
    for name, inner in (("v1", None), ("v1-moved", b"elsewhere")):
        key = f"{SECRETS}{name}"
        sealed = gcm(LOST.material, secret(name), inner or key.encode())
        values[key] = b"k8s:enc:kms:v1:old:" + v1_body(base64.b64encode(LOST.material), sealed)
    values[f"{SECRETS}name"] = f"k8s:enc:kms:v2:{RED} {ACCOUNT}:".encode() + LOST.material
    return values


def assert_silent(ended: Ended, *, may_inspect: bool = False) -> None:
    """`may_inspect`: the key id and the plugin's text are shown, escaped."""
    if may_inspect:
        assert marks_in(ended.stdout) == []
        assert "\x1b" not in ended.stdout
    for printed in (ended.stderr,) if may_inspect else (ended.stdout, ended.stderr):
        assert marks_in(printed) == []
        # What a value's prefix names is shown, escaped: it is what an operator needs to find the provider.
        assert "\x1b" not in printed
        shown = re.sub(r"k8s:enc:kms:v2:[^'\"]*?CanaryRed 111122223333:?", "", printed)
        assert [text for text in UNTRUSTED if text in shown] == [], shown


COMMANDS = (
    ["status"],
    ["run", "--dry-run"],
    ["run"],
    ["verify", "-o", "json"],
    ["status", "-o", "json"],
    ["keys", "-o", "json"],
    ["audit"],
    ["report", "--now", "--names"],
    ["report", "--now", "-o", "json"],
    *(["inspect", f"{SECRETS}{name}"] for name in ("c1", "f-key-id", "f-source")),
    *(["inspect", f"{SECRETS}{name}", "-o", "json"] for name in ("f-annotation", "v1-moved", "f-type-0")),
)


@pytest.mark.parametrize(
    "behaviour", [name if name in QUICK else pytest.param(name, marks=pytest.mark.chaos) for name in BEHAVIOURS]
)
def test_case_25_no_command_and_no_record_shows_anything_of_the_plugins(scene: Scene, behaviour: str) -> None:
    scene.plugin.behaviour = replace(scene.plugin.behaviour, **BEHAVIOURS[behaviour])
    for words in COMMANDS:
        ended = scene.rewrap.run(*words)
        assert ended.code in {0, 3, 4, 5}, f"{words}: {ended.code} {ended.stdout} {ended.stderr}"
        assert_silent(ended, may_inspect=words[0] == "inspect")
    for record in scene.gateway.read("/kube-rewrap/"):
        assert marks_in(record.value) == [] == marks_in(record.key)
        assert_silent(Ended(0, record.value.decode(), record.key))
