"""Debian's Prometheus on loopback: it scrapes what a test names, and evaluates a rule file every second."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.servers.etcd import SERVERS
from tests.servers.ports import free_ports

PROMETHEUS = SERVERS / "prometheus" / "prometheus"
PROMTOOL = SERVERS / "prometheus" / "promtool"
JOB = "kube-rewrap"
"""The job name that the alerts expect."""

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.1


def require_prometheus() -> None:
    """Skips the test where Prometheus could not be had; in CI that is an error."""
    if PROMETHEUS.exists() and PROMTOOL.exists():
        return
    reason = f"no Prometheus at {PROMETHEUS}: `make test` puts it there, where apt can download it"
    if not os.environ.get("CI"):
        pytest.skip(reason)
    pytest.fail(reason)


class Prometheus:
    """A running server. Times are in seconds since 1970."""

    def __init__(self, port: int) -> None:
        self._port = port

    def is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: `metric` (labels) and `value` (time, text)."""
        return self._result("query", query=expression)

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series of a range query: `metric` (labels) and `values` (pairs of time and text)."""
        return self._result("query_range", query=expression, start=start, end=end, step=step)

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def fired(self, start: float, end: float) -> set[str]:
        """The names of the alerts that fired at any time in between."""
        series = self.query_range('ALERTS{alertstate="firing"}', start, end, 1.0)
        return {one["metric"]["alertname"] for one in series}

    def _result(self, kind: str, **parameters: object) -> list[dict[str, Any]]:
        status, body = self._get(f"/api/v1/{kind}?{urlencode(parameters)}")
        assert status == 200, body
        found: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return found

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextmanager
def start_prometheus(directory: Path, targets: Sequence[str], rules: Mapping[str, Any]) -> Iterator[Prometheus]:
    """Scrapes the targets (`host:port`) every second until the block ends; `rules` is a rule file's content."""
    require_prometheus()
    (directory / "rules.json").write_text(json.dumps(rules))
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(directory / "rules.json")],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
    }
    (directory / "prometheus.json").write_text(json.dumps(configuration))
    [port] = free_ports(1)
    command = [
        str(PROMETHEUS),
        f"--config.file={directory / 'prometheus.json'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Prometheus(port)
    try:
        until = time.monotonic() + _START_SECONDS
        while not server.is_ready():
            is_hopeless = process.poll() is not None or time.monotonic() > until
            assert not is_hopeless, (directory / "prometheus.log").read_text()[-3000:]
            time.sleep(_POLL_SECONDS)
        yield server
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)
