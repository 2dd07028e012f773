"""Stand-ins for kube-apiservers around one configuration file, and `rewrap` beside them: what a rotation is run on."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, AnyKey, Key, opened, write_private
from tests.servers.apiserver import Registry, StandIn, Temper, compacting, seed, standins
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_values import kms_key

ROTATIONS = "/kube-rewrap/v1/rotations/"
SECRETS = "/registry/secrets/"
QUICK = (Temper(poll=0.1, seed=1), Temper(poll=0.1, seed=2), Temper(poll=0.1, seed=3))

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ControlPlane:
    """Several stand-ins that share one file, the objects that they read and write, and the command."""

    gateway: Gateway
    registry: Registry
    file: Path
    apiservers: list[StandIn]
    rewrap: Command

    @property
    def text(self) -> str:
        return self.file.read_text()

    @property
    def archive(self) -> Path:
        """Where old contents of the file are kept when nothing else is said."""
        return self.file.parent / "kube-rewrap-archive"

    @property
    def archived(self) -> list[str]:
        """The contents in the archive, in no order."""
        return [one.read_text() for one in self.archive.iterdir()] if self.archive.exists() else []

    def listing(self, *apiservers: StandIn) -> Command:
        """The command that is told of these stand-ins only."""
        return self.rewrap.with_environment(REWRAP_APISERVER=",".join(one.url for one in apiservers))

    def rotations(self) -> list[dict[str, Any]]:
        """All rotations on record, the oldest first."""
        return [json.loads(one.value) for one in self.gateway.read(ROTATIONS)]

    def rotation(self) -> dict[str, Any]:
        """The only one."""
        [found] = self.rotations()
        return found

    def wait_until_at(self, step: str, seconds: float = 60.0) -> dict[str, Any]:
        """Returns the only rotation's record once it is at a step and says what it waits for."""
        wait(lambda: [one["step"] for one in self.rotations() if one["waits"]] == [step], f"a wait at {step}", seconds)
        return self.rotation()

    def wait_until_handed_out(self, given: Path, step: str) -> str:
        """Returns the content that the operator has to put in place at a step, once all of it is in the file."""

        def is_whole() -> bool:
            wanted = [one["edited"] for one in self.rotations() if one["step"] == step and one["edited"]]
            return bool(wanted) and given.exists() and hash_of(given.read_text()) == wanted[0]

        wait(is_whole, f"content for {step}")
        return given.read_text()

    def put(self, text: str) -> None:
        """Another content in the place of the file, all at once, as a careful operator does."""
        new = self.file.with_name("by-hand.new")
        write_private(new, text)
        new.replace(self.file)

    def new_key(self) -> Key:
        """The key that the only rotation brings: by the file, not by what the product says about it."""
        [found] = [key for key in keys_of(self.text) if key.name == self.rotation()["key"]]
        return found

    def assert_all_is_under(self, key: AnyKey) -> None:
        """Every object opens with this key alone, to what etcd acknowledged; nobody ever met one that he can't read."""
        with self.registry.lock:
            found = opened(self.gateway.read(SECRETS), key)
            assert found == self.registry.objects
            assert self.registry.unreadable == [], self.registry.unreadable[:3]

    def assert_no_key_is_lost(self) -> None:
        """Whatever ever wrote is in the file or in the archive; with them, everything can be read."""
        kept = {key for text in (self.text, *self.archived) for key in keys_of(text)}
        assert set(self.registry.encryptions) <= {key.fingerprint for key in kept}
        with self.registry.lock:
            for one in self.gateway.read(SECRETS):
                assert self.registry.objects[one.key] in {key.open(one.key, one.value) for key in kept}


@contextmanager
def control_plane(
    cluster: EtcdCluster,
    directory: Path,
    text: str,
    *,
    tempers: Sequence[Temper] = QUICK,
    objects: int = 20,
    compacted_every: float = 0.2,
) -> Iterator[ControlPlane]:
    """A control plane at work with this configuration, all objects under its first key."""
    gateway, registry = cluster.admin(), Registry()
    (directory / "enc").mkdir()
    file = write_private(directory / "enc" / "enc.yaml", text)
    seed(gateway, registry, all_keys_of(text)[0], objects)
    with compacting(gateway, compacted_every), standins(gateway, file, registry, tempers) as apiservers:
        rewrap = command_for(directory, cluster, file).with_environment(
            REWRAP_RATE="0", REWRAP_YES="1", REWRAP_APISERVER=",".join(one.url for one in apiservers)
        )
        yield ControlPlane(gateway, registry, file, apiservers, rewrap)


def hash_of(text: str) -> str:
    """How records name a content of the file."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def keys_of(text: str) -> list[Key]:
    """The keys of the entry for secrets, in the order in which they are tried; KMS providers are left out."""
    return [key for key in all_keys_of(text) if isinstance(key, Key)]


def all_keys_of(text: str) -> list[AnyKey]:
    """The keys and KMS providers of the entry for secrets, in the order in which they are tried, read without our code.

    Raises grpc.RpcError when a plugin does not answer.
    """
    found: list[AnyKey] = []
    for entry in yaml.safe_load(text)["resources"]:
        if "secrets" not in entry["resources"]:
            continue
        for block in entry["providers"]:
            ((provider, content),) = block.items()
            if provider == "identity":
                found.append(IDENTITY)
            elif provider == "kms":
                found.append(kms_key(content))
            else:
                found += [Key(provider, key["name"], base64.b64decode(key["secret"])) for key in content["keys"]]
    return found


def wait(is_so: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Returns once it is so. Raises AssertionError when that takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"no {what} in {seconds:g} s"
        time.sleep(_POLL_SECONDS)
