"""A benchmark that is stopped leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.command import ROOT
from tests.servers.etcd import EtcdVersion

pytestmark = pytest.mark.timeout(60)


def children(pid: int) -> list[int]:
    """The child processes that have started their program."""
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [one for one in found if Path(f"/proc/{one}/comm").read_text() == "etcd\n"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stopped_benchmark_stops_its_etcd(number: signal.Signals) -> None:
    path = f"{EtcdVersion.V3_5.binary.parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "rewriting"], cwd=ROOT, env={**os.environ, "PATH": path}
    ) as bench:
        deadline = time.monotonic() + 30
        while not (etcd := children(bench.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        bench.send_signal(number)
        assert bench.wait(30) == 130
    assert not Path(f"/proc/{etcd[0]}").exists()
