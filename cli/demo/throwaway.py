"""Throw-away servers for the demonstration: loopback only, in a temporary directory, ended by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.worker.errors import UnavailableError

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_QUOTA = 8 * 2**30


def find_etcd(given: str | None) -> str:
    """Return the path of an etcd binary: the given one, or the one on PATH. Raises SettingsError without one."""
    return _find("etcd", given, "`make demo`")


def find_redis(given: str | None) -> str:
    """Return the path of a redis-server binary, as `find_etcd` does."""
    return _find("redis-server", given, "`make demo-service`")


def _find(name: str, given: str | None, target: str) -> str:
    for candidate in (given, shutil.which(name)):
        if candidate and Path(candidate).is_file() and os.access(candidate, os.X_OK):
            return str(Path(candidate).resolve())  # servers run in a directory of their own
    flag = f"--{name.partition('-')[0]}"
    fault = Fault(flag, f"no {name} binary was found", f"install it, or name it with {flag} PATH; {target} brings one")
    raise SettingsError("command line", (fault,))


@contextmanager
def throwaway_etcd(binary: str, directory: Path) -> Iterator[str]:
    """Run etcd while the block runs; yields its URL. Raises UnavailableError with the end of its log."""
    client, peer = (f"http://127.0.0.1:{port}" for port in _free_ports())
    command = [
        binary,
        *("--data-dir", str(directory / "etcd")),
        *("--listen-client-urls", client),
        *("--advertise-client-urls", client),
        *("--listen-peer-urls", peer),
        *("--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}"),
        *("--quota-backend-bytes", str(_QUOTA)),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    log = directory / "etcd.log"
    with log.open("wb") as output:
        # A session of its own: the terminal's Ctrl-C is for rewrap, which stops etcd itself.
        process = subprocess.Popen(  # noqa: S603 - the operator's own etcd binary
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    try:
        _wait_healthy(process, client, log)
        yield client
    finally:
        _stop(process)


@contextmanager
def throwaway_redis(binary: str, directory: Path) -> Iterator[str]:
    """Run Redis while the block runs, without a disk; yields its URL. Raises UnavailableError."""
    port = _free_ports()[0]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"]
    with (directory / "redis.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the operator's own binary
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=directory, start_new_session=True
        )
    try:
        _wait_listening(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        _stop(process)


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise UnavailableError("the throw-away Redis did not start")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:  # noqa: S310 - our own loopback URL
                if b"true" in answer.read():
                    return
        except OSError:
            time.sleep(0.05)
    tail = log.read_text(errors="replace").splitlines()[-3:]
    raise UnavailableError("the throw-away etcd did not start: " + " | ".join(tail))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
