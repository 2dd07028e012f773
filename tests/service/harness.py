"""A whole service on loopback: etcd, Redis, `rewrap scheduler` and `rewrap worker` as the processes that they are."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_rewrap.cli.demo.registry import RESOURCES, Era, Shape, configuration_of, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.provider import KeyedProvider, Provider
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.queue.names import CONTROL
from tests.acceptance.command import REWRAP, Command, Ended, log_events, start_program
from tests.acceptance.forked import ForkedProcess
from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisServer

SECONDS = 60.0
_POLL = 0.2
_STOP_SECONDS = 60.0
OLD = make_key(ProviderType.AESCBC, "old-key")
NEW = make_key(ProviderType.AESGCM, "new-key")
NEWEST = make_key(ProviderType.SECRETBOX, "newest-key")


class Daemon:
    """One daemon's process, its children, and its log."""

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess, log: Path) -> None:
        self._process = process
        self._log = log
        self._is_told = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return log_events(self.text)

    def said(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Its log lines of that name with these fields."""
        return [
            line
            for line in self.events
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items())
        ]

    def assert_said_once_an_outage(self, away: str, back: str) -> None:
        """It logged that something is away, and that it is back, in turn. A busy machine may make a second outage."""
        turns = [line["event"] for line in self.events if line["event"] in {away, back}]
        assert turns == [away, back] * (len(turns) // 2) + [away] * (len(turns) % 2)

    def kill(self) -> None:
        """SIGKILL, its children too."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_STOP_SECONDS)

    def terminate(self) -> None:
        """SIGTERM, once: a second one would end it on the spot. No waiting."""
        if self._process.poll() is None and not self._is_told:
            self._is_told = True
            self._process.terminate()

    def stop(self) -> int | None:
        """SIGTERM, as an operator would; returns its exit code."""
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode


@dataclass
class Service:
    """What a test does to a service."""

    etcd: EtcdCluster
    redis: RedisServer
    directory: Path
    stack: ExitStack
    variables: dict[str, str] = field(default_factory=dict)
    daemons: list[Daemon] = field(default_factory=list)
    more_settings: str = ""
    anew: bool = False
    """Whether daemons begin as programs, with an interpreter's own start."""

    @property
    def file(self) -> Path:
        return self.directory / "encryption-configuration.json"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "REWRAP_ENDPOINTS": ",".join(self.etcd.endpoints),
            "REWRAP_BROKER": self.redis.url,
            "REWRAP_ENCRYPTION_CONFIG": str(self.file),
            "REWRAP_SETTINGS": str(self._settings()),
            "REWRAP_RATE": "0",
            **self.variables,
        }

    def _settings(self) -> Path:
        path = self.directory / "settings.toml"
        given = "[service]\npoll = 1.0\ndebounce = 0.1\nslice = 1.0\nprogress = 1.0\n[broker]\ntimeout = 2.0\n"
        path.write_text(given + self.more_settings)
        return path

    def configure(self, *providers: Provider, file: Path | None = None) -> None:
        """Renames a configuration into place; the first provider writes."""
        path = file or self.file
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(configuration_of(providers, RESOURCES))
        fresh.rename(path)

    def fill(self, objects: int, namespaces: int = 40) -> None:
        """Makes objects under the old key."""
        shape = Shape(objects=objects, payload=200, namespaces=namespaces)
        asyncio.run(seed(EtcdSettings(endpoints=tuple(self.etcd.endpoints)), [Era(OLD, 1)], shape))

    def start(self, *words: str, **variables: str) -> Daemon:
        """Starts a daemon."""
        log = self.directory / f"{words[0]}-{len(self.daemons)}.log"
        environment = {**os.environ, **self.environment, **variables}
        process = start_program([*REWRAP, *words], environment, log, log, anew=self.anew, new_session=True)
        daemon = Daemon(process, log)
        self.daemons.append(daemon)
        self.stack.callback(daemon.stop)
        return daemon

    def run(self, *words: str) -> Ended:
        """Runs a command to its end."""
        return Command(self.directory, environment=self.environment).run(*words, "-o", "json")

    def campaigns(self) -> list[dict[str, Any]]:
        """Campaigns, the newest first; without the requests that led to none, such as a repair with nothing left."""
        rows: list[dict[str, Any]] = self.run("campaign", "list").document["campaigns"]
        return [row for row in rows if row["kind"] == "campaign"]

    def campaign(self, name: str) -> dict[str, Any]:
        """A campaign's record: a look that costs less than a command."""
        found = self.etcd.admin().get(f"/kube-rewrap/v1/campaigns/{name}")
        assert found is not None
        record: dict[str, Any] = json.loads(found.value)
        return record

    def wait(self, holds: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Waits for a condition."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{what}: not in {seconds:.0f} s\n{self.logs()}"
            time.sleep(_POLL)

    def wait_observed(self, key: KeyedProvider, writes: int) -> None:
        """Waits until the leader has recorded that it saw so many writes under this key: about a second after them."""
        [one] = key.keys
        fingerprint = one.secret.fingerprint(key.type)

        def observed() -> int:
            found = self.etcd.admin().get("/kube-rewrap/v1/observer")
            return int(json.loads(found.value)["counts"].get(fingerprint, 0)) if found else 0

        self.wait(lambda: observed() >= writes, f"{writes} observed writes under {one.name}")

    def wait_no_claim(self, campaign: str) -> None:
        """Waits until no worker is at work on a batch of this campaign: its counts and budgets are on record then."""
        claims = f"/kube-rewrap/v1/claims/{campaign}/"
        self.wait(lambda: not self.etcd.admin().read(claims), "no worker at work")

    def finished(self) -> list[dict[str, Any]]:
        """The lines that say how campaigns ended, of all schedulers."""
        return [line for daemon in self.daemons for line in daemon.said("campaign.finished")]

    def wait_finished(self, times: int, seconds: float = SECONDS) -> dict[str, Any]:
        """Waits until so many campaigns have ended; returns the last of them."""
        self.wait(lambda: len(self.finished()) >= times, f"{times} campaigns at their end", seconds)
        return sorted(self.finished(), key=lambda line: str(line["timestamp"]))[times - 1]

    def logs(self) -> str:
        return "\n".join(f"--- {daemon.pid}\n{daemon.text[-3000:]}" for daemon in self.daemons)

    def opened_by(self, key: KeyedProvider, prefix: str = "/registry/") -> int:
        """How many objects this key alone opens. An independent look at etcd: it uses no engine."""
        chain = Chain([key])
        found = self.etcd.admin().read(prefix)
        return sum(getattr(chain.open(one.value, one.key.encode()), "ref", None) is not None for one in found)


@contextmanager
def service(etcd: EtcdCluster, redis: RedisServer, directory: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        one = Service(etcd, redis, directory, stack)
        one.configure(OLD)
        try:
            yield one
        finally:
            # All at once: each takes some seconds to end.
            for daemon in one.daemons:
                daemon.terminate()


def celery_message(task: str, arguments: dict[str, object], identity: str, queue: str = CONTROL) -> str:
    """The envelope of Celery's protocol 2 on Redis, made by hand: what any language can write."""
    body = base64.b64encode(json.dumps([[], arguments, {}]).encode()).decode()
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "any", "task": task, "id": identity, "root_id": identity, "parent_id": None},
            "properties": {
                "correlation_id": identity,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "rewrap", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": identity,
            },
        }
    )


def send_by_stock_client(service: Service, task: str, arguments: dict[str, object]) -> None:
    """As an operator's own script does it: Celery in a process that knows nothing of us."""
    script = (
        "import json, sys; from celery import Celery; "
        "Celery(broker=sys.argv[1]).send_task(sys.argv[2], kwargs=json.loads(sys.argv[3]), queue='rewrap.control')"
    )
    words = [sys.executable, "-c", script, service.redis.url, task, json.dumps(arguments)]
    subprocess.run(words, check=True, timeout=60, cwd=service.directory)
