"""A container engine of the tests' own: Debian's dockerd, with its data and socket in one directory.

It touches neither an engine that runs already, nor its images, networks and rules of the packet filter: the tests give
images made here the names of published ones. `python -m tests.image.engine` exits with 1, and says why, where the
tests can't run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("dockerd", "docker", "docker-compose", "debootstrap", "ip", "iptables", "setpriv", "unshare")
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2


def missing() -> str | None:
    """Why the engine can't be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install docker.io docker-compose debootstrap iproute2 iptables"
    if os.geteuid() != 0:
        return "dockerd and debootstrap need root"
    return None


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Return when `condition` holds; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL_SECONDS)


class Engine:
    """The commands of a running dockerd."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.environment = {**os.environ, "DOCKER_HOST": f"unix://{directory}/docker.sock", "DOCKER_BUILDKIT": "0"}

    def run(self, *words: str | Path, env: Mapping[str, str] | None = None, seconds: float = 60.0) -> str:
        """The standard output of a command that talks to this engine. A command that fails raises with its output."""
        environment = {**self.environment, **(env or {})}
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=seconds)
        if ended.returncode != 0:
            raise RuntimeError(f"{words[0]} {words[1]} exited {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
        return ended.stdout

    def docker(self, *words: str | Path, seconds: float = 60.0) -> str:
        return self.run("docker", *words, seconds=seconds)

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def logs(self, name: str) -> str:
        """Both streams of a container, from its first start on."""
        words = ["docker", "logs", name]
        return subprocess.run(
            words,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            timeout=60,
        ).stdout


# With the network of this machine, for builds that fetch packages: it makes no device and no rule of the packet filter.
_FOR_BUILDS = ["unshare", "--mount", "dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false"]
# With a network namespace of its own, for containers: no port, device or rule of theirs is one of this machine's.
_FOR_RUNS = ["unshare", "--mount", "--net", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "sh"]


@contextmanager
def engine(directory: Path, *, builds: bool) -> Iterator[Engine]:
    """Start dockerd; afterwards remove its containers, networks and volumes, stop it, and wait for its end.

    An engine that `builds` has no networks; another one reaches nothing outside. Their images are the same, if their
    directory is. It ends with this process, too, however that ends; then its mounts are gone.
    """
    running = Engine(directory)
    words: list[str | Path] = ["setpriv", "--pdeathsig", "TERM", *(_FOR_BUILDS if builds else _FOR_RUNS)]
    words += ["--data-root", running.data, "--exec-root", directory / "exec", "--pidfile", directory / "docker.pid"]
    words += ["--host", running.environment["DOCKER_HOST"]]
    with (directory / "dockerd.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for("dockerd answers", lambda: _answers(running, process), _START_SECONDS)
        yield running
    finally:
        _empty(running)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(running: Engine, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        log = (running.directory / "dockerd.log").read_text()[-2000:]
        raise RuntimeError(f"dockerd exited {process.returncode}:\n{log}")
    words = ["docker", "version"]
    return subprocess.run(words, env=running.environment, capture_output=True, check=False, timeout=10).returncode == 0


def _empty(running: Engine) -> None:
    """Remove what would outlive dockerd: containers' processes, and networks' devices."""
    kinds = (("container", "ls", "-aq"), ("network", "ls", "-q", "--filter", "type=custom"), ("volume", "ls", "-q"))
    for kind, *listing in kinds:
        force = [] if kind == "network" else ["--force"]
        try:
            found = running.docker(kind, *listing).split()
            if found:
                running.docker(kind, "rm", *force, *found)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"A {kind} is left: {error}", file=sys.stderr)  # noqa: T201 - the next ones go nevertheless


if __name__ == "__main__":
    reason = missing()
    if reason is not None:
        sys.exit(f"The tests of the image can't run here: {reason}")
