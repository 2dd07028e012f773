"""`rewrap demo --service`: runs a scheduler and two workers, changes the primary key, and shows the campaign."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kube_rewrap.cli.demo.registry import RESOURCES, Era, Shape, configuration_of, make_key, put_in_place, seed
from kube_rewrap.cli.demo.tour import tour
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.output import say
from kube_rewrap.cli.progress import open_progress
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.settings.flags import EVERY
from kube_rewrap.config.settings.schema import EtcdSettings, Settings
from kube_rewrap.config.settings.sources import settings_from
from kube_rewrap.scheduler.campaigns.status import look, look_at_all
from kube_rewrap.worker.errors import UnavailableError

_WORKERS = 2
_DAEMONS = ("scheduler", *(f"worker-{number + 1}" for number in range(_WORKERS)))
_SHOWN = {
    "process.started",
    "leader.elected",
    "configuration.accepted",
    "request.made",
    "campaign.planned",
    "campaign.step",
    "worker.ready",
    "convergence.waiting",
}
"""Events of the logs that show what the service does."""

_CAMPAIGN_SECONDS = 300.0
_POLL_SECONDS = 0.2
_STOP_SECONDS = 20.0
_ENTRY = "from kube_rewrap.cli.main import run; run()"


@dataclass(frozen=True, slots=True)
class DemoService:
    """The servers, files and sizes of the demonstration."""

    folder: Path
    etcd: str
    redis: str
    rate: str
    objects: int

    @property
    def configuration(self) -> Path:
        """The EncryptionConfiguration that all processes follow."""
        return self.folder / "encryption-configuration.yaml"

    def environment(self) -> dict[str, str]:
        """Return the variables of the daemons."""
        return {
            **os.environ,
            "REWRAP_ENDPOINTS": self.etcd,
            "REWRAP_BROKER": self.redis,
            "REWRAP_ENCRYPTION_CONFIG": str(self.configuration),
            "REWRAP_RATE": self.rate,
            "REWRAP_LOG_LEVEL": "info",
        }


def run_demo(demo: DemoService) -> int:
    """Run the service and show its campaigns; returns the exit code of the last command."""
    old, new = make_key(ProviderType.AESCBC, "key1"), make_key(ProviderType.AESGCM, "key2")
    say(f"Filling etcd with {demo.objects:,} objects under the key {old.type.value}:key1 ...")
    run_async(lambda: seed(EtcdSettings(endpoints=(demo.etcd,)), [Era(old, 1)], Shape(objects=demo.objects)))
    put_in_place(demo.configuration, configuration_of([old], RESOURCES))
    with ExitStack() as stack:
        for name in _DAEMONS:
            stack.enter_context(_daemon(name, demo))
        say(f"Started a scheduler and {_WORKERS} workers. Their logs, while they look at it all for the first time:")
        logs = stack.enter_context(closing(_Logs(demo.folder)))
        first = _follow(demo, set(), logs)
        say()
        say("The key changes: another EncryptionConfiguration is renamed into place. Nothing else is done.")
        say()
        put_in_place(demo.configuration, configuration_of([new, old], RESOURCES))
        _follow(demo, {first}, logs)
        code = _tour(demo)
        say()
        if code == Exit.DONE:
            say(f"The file changed, and without a command the service rewrote and proved {demo.objects:,} objects.")
        say("Stopping scheduler and workers ...")
        return code


@contextmanager
def _daemon(name: str, demo: DemoService) -> Iterator[None]:
    """Run a daemon while the block runs; its log is a file."""
    with (demo.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-c", _ENTRY, name.partition("-")[0]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=demo.environment(),
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _follow(demo: DemoService, known: set[str], logs: _Logs) -> str:
    """Wait for the next campaign and show its progress; returns its name. Raises UnavailableError."""
    return run_async(lambda: _followed(demo, known, logs))


class _Logs:
    """Shows lines of the daemons' logs as they are written: what the service does, and why."""

    def __init__(self, folder: Path) -> None:
        self._files = [(folder / f"{name}.log").open(encoding="utf-8") for name in _DAEMONS]
        self._last: dict[str, str] = {}

    def show(self) -> None:
        """Show the new lines."""
        for file in self._files:
            for line in iter(file.readline, ""):
                entry = json.loads(line) if line.startswith("{") and line.endswith("}\n") else {}
                if entry.get("event") in _SHOWN:
                    self._show(Path(file.name).stem, ": ".join([entry["event"], *filter(None, [entry.get("because")])]))

    def _show(self, name: str, said: str) -> None:
        """Show a line, but once where each child process of a worker logs it."""
        if self._last.get(name) != said:
            say(f"  {name + ':':<11}{said}")
        self._last[name] = said

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


async def _followed(demo: DemoService, known: set[str], logs: _Logs) -> str:
    settings = _settings(demo.environment())
    until = time.monotonic() + _CAMPAIGN_SECONDS
    with open_progress(None, sys.stderr) as watcher:
        while time.monotonic() < until:
            logs.show()
            rows = await look_at_all(settings)
            name = next((str(row["id"]) for row in rows if row["kind"] == "campaign" and row["id"] not in known), None)
            found = await look(settings, name) if name else None
            if found is not None and found.campaign is not None:
                watcher(found.campaign, found.standing)
                if found.is_end:
                    logs.show()
                    say(f"Campaign {found.name} is {found.state}: {found.because}")
                    return found.name
            await asyncio.sleep(_POLL_SECONDS)
    raise UnavailableError(f"no campaign ended within {_CAMPAIGN_SECONDS:.0f} s; see the logs in {demo.folder}")


def _settings(environment: Mapping[str, str]) -> Settings:
    return settings_from(EVERY, {}, environment)


def _tour(demo: DemoService) -> int:
    """Run the commands that an operator would use."""
    place = ["--endpoints", demo.etcd]
    configured = [*place, "--encryption-config", str(demo.configuration)]
    return tour(
        [
            (["campaign", "list"], place),
            (["verify"], configured),
            (["keys"], configured),
            (["audit-log", "verify"], place),
        ]
    )
