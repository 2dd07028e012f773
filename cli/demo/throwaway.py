"""Throw-away servers for the demonstration: loopback only, in a temporary directory, ended by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    with log.open("wb") as output, _running(command, stdout=output, stderr=output, env=environment) as process:
        _wait_healthy(process, client, log)
        yield client


@contextmanager
def throwaway_redis(binary: str, directory: Path) -> Iterator[str]:
    """Run Redis while the block runs, without a disk; yields its URL. Raises UnavailableError."""
    port = _free_ports()[0]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory-policy", "noeviction"]
    with (
        (directory / "redis.log").open("wb") as output,
        _running(command, stdout=output, stderr=output, cwd=directory) as process,
    ):
        _wait_listening(process, port)
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block runs.

    SIGINT and SIGTERM wait until it has started: an exception in Popen would leave the process without an owner.
    """
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda caught, _frame: held.append(caught))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    process: subprocess.Popen[bytes] | None = None
    try:
        # A session of its own: the terminal's Ctrl-C is for rewrap, which stops the server itself.
        process = subprocess.Popen(  # noqa: S603 - the operator's own binary
            command, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
        _set(handlers)
        for number in held:
            signal.raise_signal(number)
        yield process
    finally:
        _set(handlers)
        if process is not None:
            _stop(process)


def _set(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
