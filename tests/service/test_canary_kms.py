"""Case 25 for the daemons: whatever a plugin says, and whatever fails, no secret and no untrusted text leaves them.

The plugin's errors repeat every secret that there is; its key ids, annotations and errors hold account numbers,
terminal escapes and line breaks.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command
from tests.acceptance.marks import BOX, CBC, GCM, LOST, PAYLOAD
from tests.integration.apiserver import configuration, manifest, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey, KmsV1Key
from tests.servers.ports import free_ports
from tests.servers.redis import RedisServer
from tests.service.harness import Daemon, Service, service
from tests.service.http import readiness, shown
from tests.service.kms import SETTINGS, campaign_records
from tests.service.leaks import (
    core_limit,
    found_in,
    logs,
    processes_of,
    records,
    redis_keys,
    redis_traffic,
    shapes_of,
)
from tests.unit.worker.providers.kms_values import gcm, type_1, v2_body

ACCOUNT = "111122223333"
HOSTILE = "\x1b[31mCanaryRed\nCanaryLine\r\x1b]0;CanaryTitle\x07"
KEY_ID = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/{HOSTILE}"
NEXT_KEY_ID = f"{KEY_ID}/next"
ANNOTATION = "canary-annotation.example.com"
ANNOTATIONS = {ANNOTATION: f"CanaryAnnotation {HOSTILE}"}
FRAGMENTS = (ACCOUNT, "arn:aws", "CanaryRed", "CanaryLine", "CanaryTitle", "CanaryAnnotation", ANNOTATION)
ESCAPES = ("\x1b", "\\x1b", "\\u001b", "\\033", "\\e[", "%1B", "\x07")

SECRETS, CONFIGMAPS = "/registry/secrets/default/", "/registry/configmaps/default/"
KINDS = {"secrets": "Secret", "configmaps": "ConfigMap"}
FAILING_SOURCE = base64.b64encode(BOX.material)


def plaintext(kind: str, name: str) -> bytes:
    return manifest(kind, "default", name, PAYLOAD)


@dataclass
class Scene:
    cluster: Service
    plugin: KmsPlugin
    since: int
    places: list[str] = field(default_factory=list)
    looks: dict[str, bytes] = field(default_factory=dict)

    def start(self, role: str) -> Daemon:
        self.places.append(f"127.0.0.1:{free_ports(1)[0]}")
        return self.cluster.start(role, REWRAP_METRICS_ADDR=self.places[-1])

    def does(self, **behaviour: Any) -> None:
        """The plugin is as at first but for this; its errors repeat all secrets that it saw."""
        secrets = [GCM.material, BOX.material, LOST.material, CBC.material, *sorted(self.plugin.secrets)]
        told = "; ".join(f"{one.decode('latin-1')} {base64.b64encode(one).decode()} {one.hex()}" for one in secrets[:9])
        text = f"{HOSTILE} denied for arn:aws:iam::{ACCOUNT}:role/canary {PAYLOAD} {told}"
        first = Behaviour(key_id=self.plugin.behaviour.key_id, annotations=ANNOTATIONS, fail_text=text)
        sources = {hashlib.sha256(FAILING_SOURCE).hexdigest(): "UNKNOWN"}
        self.plugin.behaviour = replace(first, fail_sources=sources, **behaviour)

    def look(self, what: str) -> None:
        """Keeps what the daemons that run show over HTTP."""
        for place, daemon in zip(self.places, self.cluster.daemons, strict=True):
            if not daemon.running:
                continue
            self.cluster.wait(lambda place=place: readiness(place), f"an answer at {place}")  # type: ignore[misc]
            for path in ("/metrics", "/healthz", "/readyz", "/nowhere"):
                self.looks[f"{what}: {path} of {place}"] = shown(place, path).encode()

    def wait_for_failure(self, daemon: Daemon, words: str) -> None:
        """Waits until a daemon says so of a batch that failed or of a KEK that is held."""
        self.cluster.wait(lambda: words in " ".join(str(one.get("because")) for one in daemon.events), words)

    def gather(self, traffic: bytes) -> dict[str, bytes]:
        """Everything that left the processes."""
        cluster = self.cluster
        kept = {"Redis traffic": traffic, **redis_keys(cluster.redis), **records(cluster.etcd, self.since)}
        return {**logs(cluster.daemons), **kept, **self.looks}

    def marks(self) -> set[bytes]:
        secrets = {CBC.material, GCM.material, BOX.material, LOST.material, PAYLOAD.encode(), *self.plugin.secrets}
        ids = {one.encode() for one in (KEY_ID, NEXT_KEY_ID, *ANNOTATIONS.values(), *FRAGMENTS)}
        return {shape for one in secrets | ids for shape in shapes_of(one)} | {one.encode() for one in ESCAPES}


@pytest.fixture
def scene(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    """Objects under aescbc, KMS v1 and v2; secrets are to move to KMS v2, and configmaps to v1."""
    gateway = etcd.admin()
    since = gateway.revision() + 1
    with start_plugin(str(tmp_path / "kms.sock")) as plugin, service(etcd, redis, tmp_path) as cluster:
        cloud, old, local = (
            KmsKey("cloud", plugin.endpoint, KEY_ID, seed=GCM.material),
            KmsV1Key("old", plugin.endpoint),
            KmsV1Key("local", plugin.endpoint),
        )
        for key, prefix in ((CBC, SECRETS), (old, f"{SECRETS}v1-"), (CBC, CONFIGMAPS)):
            store(gateway, {f"{prefix}{n}": plaintext(KINDS[prefix.split("/")[2]], f"o{n}") for n in range(4)}, key)
        gateway.put_all(forged(cloud))
        cluster.file.unlink()
        write_private(cluster.file, configuration((["secrets"], [cloud, old, CBC]), (["configmaps"], [local, CBC])))
        cluster.more_settings = SETTINGS
        cluster.variables |= {"REWRAP_LOG_LEVEL": "debug", "REWRAP_TRACEBACK": "1"}
        plugin.behaviour = Behaviour(key_id=KEY_ID)
        scene = Scene(cluster, plugin, since)
        scene.does()
        yield scene


def forged(cloud: KmsKey) -> dict[str, bytes]:
    """What someone who can write to etcd may store."""
    failing, lost = FAILING_SOURCE, base64.b64encode(LOST.material)
    values = {}
    for name, seed, key_id, source, noted in (
        ("f-key-id", LOST.material, f"forged {KEY_ID}", lost, ()),
        ("f-annotation", LOST.material, KEY_ID, lost, tuple(ANNOTATIONS.items())),
        ("f-source", LOST.material, KEY_ID, f"{HOSTILE} {ACCOUNT}".encode(), ()),
        ("f-failing", BOX.material, KEY_ID, failing, ()),
    ):
        key = f"{SECRETS}{name}"
        data = type_1(seed, plaintext("Secret", name), key.encode())
        pairs = [(one.encode(), value.encode()) for one, value in noted]
        values[key] = cloud.prefix + v2_body(data, key_id.encode(), source, pairs)
    key = f"{SECRETS}f-type-0"
    data = gcm(LOST.material, plaintext("Secret", "f-type-0"), key.encode())
    return values | {key: cloud.prefix + v2_body(data, KEY_ID.encode(), lost, kind=0)}


@pytest.mark.timeout(180)
def test_case_25_nothing_of_keys_objects_or_plugins_leaves_the_daemons(scene: Scene) -> None:
    cluster, plugin = scene.cluster, scene.plugin
    with redis_traffic(cluster.redis) as traffic:
        scene.does(fail={"*": "UNKNOWN"})
        scheduler = scene.start("scheduler")
        scene.wait_for_failure(scheduler, "failed without a reason")
        scene.look("no key id")
        scene.does()
        cluster.wait(lambda: campaign_records(cluster.etcd.admin()), "a campaign")

        scene.does(annotations={f"No Domain {HOSTILE}": PAYLOAD})
        worker = scene.start("worker")
        scene.wait_for_failure(worker, "annotations that Kubernetes refuses")
        scene.look("a batch that fails")
        assert len(processes_of(worker)) > 2
        assert {core_limit(one) for daemon in cluster.daemons for one in processes_of(daemon)} == {"0"}

        scene.does(hang=("v2.Encrypt",))
        before = plugin.calls["v2.Encrypt"]
        cluster.wait(lambda: plugin.calls["v2.Encrypt"] > before, "a call that hangs")
        worker.kill()
        plugin.stop()
        worker = scene.start("worker")
        scene.wait_for_failure(scheduler, "can't be reached")
        scene.look("the plugin is down")

        plugin.rotate(NEXT_KEY_ID)
        scene.does(old_key_ids=(KEY_ID,))
        plugin.start()
        assert cluster.wait_finished(1)["state"] == "incomplete"
        assert scheduler.said("campaign.superseded")
        assert worker.said("kms.source_refused")
        assert scheduler.said("object.quarantined")
        scene.look("a rotated KEK")
        for name in ("f-source", "f-failing"):  # each command that scans would try them again, with pauses
            cluster.etcd.admin().delete(f"{SECRETS}{name}")
        gather_outputs(scene)

        marks = scene.marks()
        gathered = scene.gather(bytes(traffic))
        assert found_in(gathered, marks) == []
        assert {"log 2", "Redis traffic", f"a rotated KEK: /readyz of {scene.places[2]}"} <= gathered.keys()
        assert any(place.startswith("/kube-rewrap/v1/keks/") for place in gathered)
        assert [place for place in gathered if "celery-task-meta" in place] == []  # there is no result backend

        plant(scene)
        cluster.wait(lambda: b"planted-stream" in traffic, "the traffic with what was planted")
    found = {place.split(" at ")[0] for place, _ in found_in(scene.gather(bytes(traffic)), marks)}
    planted = {f"Redis b'planted-{kind}'" for kind in PLANTED}
    assert found == {"log 0", "Redis traffic", "/kube-rewrap/v1/planted", *planted}


COMMANDS = (
    ("status",),
    ("keys",),
    ("audit",),
    ("audit-log", "list"),
    ("campaign", "list"),
)


def gather_outputs(scene: Scene) -> None:
    """Runs commands beside the daemons; keeps what they print."""
    cluster = scene.cluster
    command = Command(cluster.directory, environment=cluster.environment)
    last = cluster.finished()[-1]["campaign"]
    for words in (*COMMANDS, ("campaign", "show", last)):
        for more in ((), ("-o", "json")):
            ended = command.run(*words, *more)
            assert ended.stdout, ended.stderr
            scene.looks[" ".join((*words, *more))] = f"{ended.stdout}{ended.stderr}".encode()


PLANTED = {
    "string": ("SET",),
    "list": ("RPUSH",),
    "hash": ("HSET", "field"),
    "set": ("SADD",),
    "zset": ("ZADD", 1),
    "stream": ("XADD", "*", "field"),
}


def plant(scene: Scene) -> None:
    """Puts secrets that the plugin saw where the search must find them, each in another shape."""
    secret = max(scene.plugin.secrets)
    scene.cluster.etcd.admin().put("/kube-rewrap/v1/planted", json.dumps({"v": 1, "a": secret.hex()}).encode())
    with scene.cluster.redis.admin() as client:
        for kind, (command, *more) in PLANTED.items():
            client.execute_command(command, f"planted-{kind}", *more, base64.b64encode(b"." + secret + b"."))
    with (scene.cluster.directory / "scheduler-0.log").open("a") as log:
        log.write(json.dumps({"event": secret.decode("latin-1")}))
