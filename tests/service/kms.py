"""A service beside KMS plugins that are processes of their own: killed, hung, and turned to another KEK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.command import start_program
from tests.acceptance.forked import ForkedProcess
from tests.integration.apiserver import AnyKey, Key, configuration, manifest
from tests.servers.gateway import Gateway
from tests.servers.kms_values import KmsKey
from tests.service.harness import Service

SETTINGS = """
[kms]
settle = 1.0
"""

SECRETS = "/registry/secrets/"
_START_SECONDS = 30.0


class PluginProcess:
    """`tests/servers/kms_plugin.py` as a process, and the file of its switches."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.socket = directory / "kms.sock"
        self._control = directory / "switches.json"
        self._log = directory / "plugin.log"
        self._behaviour: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Starts it anew: its socket is another one than before."""
        words = ["-m", "tests.servers.kms_plugin", "--socket", str(self.socket), "--control", str(self._control)]
        self.socket.unlink(missing_ok=True)
        self._process = start_program([sys.executable, *words], os.environ, self._log, self._log)
        until = time.monotonic() + _START_SECONDS
        while not self.socket.exists():
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL; its socket stays, and nothing accepts there."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def does(self, **behaviour: Any) -> None:
        """Turns switches of `Behaviour`, for the calls from now on."""
        self._behaviour |= behaviour
        fresh = self._control.with_suffix(".new")
        fresh.write_text(json.dumps(self._behaviour))
        fresh.rename(self._control)


@contextmanager
def plugin_process(directory: Path) -> Iterator[PluginProcess]:
    """A plugin that runs from the start."""
    plugin = PluginProcess(directory)
    plugin.start()
    try:
        yield plugin
    finally:
        plugin.kill()


def put_in_place(cluster: Service, *keys: AnyKey) -> Path:
    """Renames a configuration of secrets into the place where the service and the stand-ins look for it."""
    file = cluster.directory / "enc" / "enc.json"
    file.parent.mkdir(exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(configuration((["secrets"], keys)))
    fresh.rename(file)
    cluster.variables["REWRAP_ENCRYPTION_CONFIG"] = str(file)
    return file


def fill_with_sources(gateway: Gateway, key: KmsKey, count: int) -> dict[str, bytes]:
    """Objects under the key's present KEK, each with a seed of its own: each costs a call to read."""
    plaintexts = {
        f"{SECRETS}team-{number % 5}/s{number:04}": manifest("Secret", f"team-{number % 5}", f"s{number:04}", "first")
        for number in range(count)
    }
    values = {}
    for name, plaintext in plaintexts.items():
        key.turn(key.key_id)
        values[name] = key.seal(name, plaintext)
    gateway.put_all(values)
    return plaintexts


def count_of(gateway: Gateway, key: KmsKey) -> int:
    """How many secrets are under the key's present KEK."""
    return sum(key.is_current(one.value) for one in gateway.read(SECRETS))


def read_all(gateway: Gateway, *keys: Key | KmsKey) -> dict[str, bytes | None]:
    """What a kube-apiserver with these keys reads."""
    return {
        one.key: next((text for key in keys if (text := key.open(one.key, one.value)) is not None), None)
        for one in gateway.read(SECRETS)
    }


def campaign_records(gateway: Gateway) -> list[dict[str, Any]]:
    """The campaigns' own records, the oldest first."""
    return [json.loads(one.value) for one in gateway.read("/kube-rewrap/v1/campaigns/")]


def batch_records(gateway: Gateway) -> list[dict[str, Any]]:
    """The checkpoints of all batches."""
    return [json.loads(one.value) for one in gateway.read("/kube-rewrap/v1/batches/")]


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition holds before the time is over."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
