"""docker-compose.yml: one campaign, and another one while every container is killed in turn."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.bases import IMAGE, TOP
from tests.image.engine import Engine, wait_for

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

_PROJECT = "kube-rewrap-test"
_OBJECTS = 6000
# Objects a second: a campaign lasts longer than it takes to kill all containers.
_RATE = "100"
_CAMPAIGN_SECONDS = 300.0
_HEALTH_SECONDS = 90.0
_UID = "65532"


def compose_file() -> dict[str, Any]:
    """docker-compose.yml with three changes.

    Without its name, which Compose 1 refuses; etcd's data on a volume, so that they survive its kill; and slower.
    """
    document: dict[str, Any] = yaml.safe_load((TOP / "docker-compose.yml").read_text())
    del document["name"]
    etcd, scheduler, worker = (document["services"][name] for name in ("etcd", "scheduler", "worker"))
    del etcd["tmpfs"]
    etcd["command"] = ["--data-dir=/data" if word.startswith("--data-dir=") else word for word in etcd["command"]]
    etcd["volumes"] = ["etcd:/data"]
    document["volumes"]["etcd"] = None
    for service in (scheduler, worker):
        service["environment"]["REWRAP_RATE"] = _RATE
    return document


class Project:
    """The running project."""

    def __init__(self, docker: Engine, file: Path) -> None:
        self.docker = docker
        self._file = file
        # Every key that the configuration has had: none of them may be in a log.
        self.keys: set[str] = set()

    def compose(self, *words: str, seconds: float = 180.0) -> str:
        place = ["--project-name", _PROJECT, "--project-directory", str(TOP), "--file", str(self._file)]
        environment = {"REDIS_PASSWORD": "f2a4c1d09b"}
        return self.docker.run("docker-compose", *place, *words, env=environment, seconds=seconds)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).split()

    @property
    def daemons(self) -> list[str]:
        return [*self.containers("scheduler"), *self.containers("worker")]

    @property
    def services(self) -> list[str]:
        return [*self.containers("etcd"), *self.containers("redis"), *self.daemons]

    def rewrap(self, *words: str) -> Any:
        """What a command prints as JSON, run in the scheduler's container."""
        return json.loads(self.compose("exec", "-T", "scheduler", "rewrap", *words, "--output", "json"))

    def campaigns(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rewrap("campaign", "list")["campaigns"]
        return found

    def is_healthy(self) -> bool:
        states = [self.docker.inspect(name)["State"] for name in self.services]
        return all(state["Running"] and state["Health"]["Status"] == "healthy" for state in states)

    def values(self) -> list[bytes]:
        """Every value below /registry/ that the configuration governs, read by etcdctl: all but the namespaces."""
        read = ["etcdctl", "get", "--prefix", "/registry/", "--write-out", "json"]
        found = json.loads(self.compose("exec", "-T", "etcd", *read))["kvs"]
        pairs = [(base64.b64decode(one["key"]), base64.b64decode(one["value"])) for one in found]
        return [value for key, value in pairs if not key.startswith(b"/registry/namespaces/")]

    def under(self, prefix: bytes) -> int:
        return sum(value.startswith(prefix) for value in self.values())

    @property
    def configuration(self) -> Path:
        volume = f"{_PROJECT}_configuration"
        [found] = json.loads(self.docker.docker("volume", "inspect", volume))
        return Path(found["Mountpoint"]) / "encryption.yaml"

    def note_keys(self) -> None:
        for entry in yaml.safe_load(self.configuration.read_text())["resources"]:
            for provider in entry["providers"]:
                for settings in provider.values():
                    self.keys |= {key["secret"] for key in settings.get("keys", [])}

    def change_key(self) -> bytes:
        """Make a new key the primary, as docs/deploy.md says; returns the prefix of values under it."""
        self.compose("run", "--rm", "-T", "seed", "demo", "--next-key", "/var/lib/kube-rewrap/encryption.yaml")
        self.note_keys()
        first = yaml.safe_load(self.configuration.read_text())["resources"][0]["providers"][0]
        return f"k8s:enc:aesgcm:v1:{first['aesgcm']['keys'][0]['name']}:".encode()


@pytest.fixture(scope="module")
def project(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    file = tmp_path_factory.mktemp("compose") / "docker-compose.json"
    file.write_text(json.dumps(compose_file()))
    found = Project(docker, file)
    try:
        # The image is there: no registry is asked, and nothing is built.
        found.compose("up", "--detach", "--no-build")
        found.note_keys()
        yield found
    finally:
        found.compose("down", "--volumes")


@pytest.fixture(scope="module")
def finished(project: Project) -> Project:
    """After the campaign with which the file begins."""
    wait_for("the first campaign", lambda: bool(project.campaigns()), 60.0)
    [campaign] = project.campaigns()
    project.compose("exec", "-T", "scheduler", "rewrap", "campaign", "wait", campaign["id"], seconds=_CAMPAIGN_SECONDS)
    return project


def test_the_first_campaign_is_proven(finished: Project) -> None:
    assert [one["state"] for one in finished.campaigns()] == ["complete"]
    assert finished.under(b"k8s:enc:aesgcm:v1:key2:") == len(finished.values()) == _OBJECTS


def test_every_container_is_healthy(finished: Project) -> None:
    wait_for("all containers are healthy", finished.is_healthy, _HEALTH_SECONDS)
    [seed] = finished.containers("seed")
    assert finished.docker.inspect(seed)["State"]["ExitCode"] == 0


def test_no_container_has_more_rights_than_it_needs(finished: Project) -> None:
    """As the kernel has it, for the container's first process."""
    for name in finished.services:
        process = Path("/proc") / str(finished.docker.inspect(name)["State"]["Pid"])
        lines = (process / "status").read_text().splitlines()
        status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        assert status["Uid"] == status["Gid"] == [_UID] * 4
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind][0], 16) == 0
        assert status["NoNewPrivs"] == ["1"]
        assert status["Seccomp"] == ["2"], "no filter of system calls"
        mounts = [line.split() for line in (process / "mounts").read_text().splitlines()]
        [root] = [options.split(",") for _, place, _, options, *_ in mounts if place == "/"]
        assert "ro" in root


def test_campaigns_survive_a_kill_of_each_container(finished: Project) -> None:
    """One campaign, if all containers are killed before its end; on a slow machine another one, and so on."""
    assert {finished.docker.inspect(name)["Config"]["Image"] for name in finished.daemons} == {IMAGE}
    prefix, done, planned = b"", _OBJECTS, 1
    for name in finished.services:
        if done == _OBJECTS:
            wait_for("no campaign is at work", lambda: set(_states(finished)) == {"complete"}, _CAMPAIGN_SECONDS)
            planned += 1
            prefix, done = finished.change_key(), 0
        wait_for("the campaign makes progress", lambda: finished.under(prefix) > done, _CAMPAIGN_SECONDS)  # noqa: B023
        finished.docker.docker("kill", "--signal", "KILL", name)
        assert not finished.docker.inspect(name)["State"]["Running"]
        finished.docker.docker("start", name)
        wait_for("etcd answers", lambda: _reads(finished), 30.0)
        done = finished.under(prefix)
        assert done > 0
    wait_for("the last campaign is planned", lambda: len(finished.campaigns()) == planned, 60.0)
    newest = max(finished.campaigns(), key=lambda one: str(one["id"]))
    finished.compose("exec", "-T", "scheduler", "rewrap", "campaign", "wait", newest["id"], seconds=_CAMPAIGN_SECONDS)
    assert _states(finished) == ["complete"] * planned
    assert finished.under(prefix) == len(finished.values()) == _OBJECTS
    proof = finished.rewrap("verify")
    assert (proof["complete"], proof["objects"], proof["stale"]) == (True, _OBJECTS, 0)
    assert finished.rewrap("audit-log", "verify")
    wait_for("all containers are healthy again", finished.is_healthy, _HEALTH_SECONDS)


def _states(project: Project) -> list[str]:
    return [str(one["state"]) for one in project.campaigns()]


def _reads(project: Project) -> bool:
    try:
        return bool(project.values())
    except RuntimeError:
        return False


def test_the_logs_hold_no_key_and_no_error(finished: Project) -> None:
    texts = {name: finished.docker.logs(name) for name in [*finished.services, *finished.containers("seed")]}
    spellings = {*finished.keys, *(base64.b64decode(key).hex() for key in finished.keys)}
    assert len(finished.keys) >= 4
    assert [name for name, text in texts.items() if any(one in text for one in spellings)] == []
    for name in finished.daemons:
        lines = [json.loads(line) for line in texts[name].splitlines()]
        assert lines != []
        assert [line for line in lines if line["level"] not in {"debug", "info", "warning"}] == []
