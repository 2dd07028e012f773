"""Metrics and health over real HTTP on loopback: what is answered, to whom, and for how long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from time import monotonic

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from structlog.testing import capture_logs

from kube_rewrap.config.errors import SettingsError
from kube_rewrap.worker import monitoring as exposition
from kube_rewrap.worker.monitoring import Question, serve

LOOPBACK = "127.0.0.1:0"
PATHS = ["/metrics", "/healthz", "/readyz"]


def yes() -> str:
    return ""


@contextmanager
def serving(alive: Question = yes, ready: Question = yes, registry: CollectorRegistry | None = None) -> Iterator[str]:
    with serve(LOOPBACK, registry or CollectorRegistry(), alive, ready) as place:
        yield place


def ask(place: str, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = HTTPConnection(place, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def test_metrics_are_those_of_the_registry_and_no_others() -> None:
    registry = CollectorRegistry()
    Gauge("kube_rewrap_test", "A test.", registry=registry).set(7)
    with serving(registry=registry) as place:
        status, kind, body = ask(place, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    [family] = text_string_to_metric_families(body)
    assert [(sample.name, sample.value) for sample in family.samples] == [("kube_rewrap_test", 7.0)]


def test_the_real_port_is_logged() -> None:
    with capture_logs() as lines, serving() as place:
        assert not place.endswith(":0")
        assert ask(place, "/healthz")[0] == 200
    assert lines == [{"event": "metrics.serving", "log_level": "info", "address": place}]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_is_written_in_brackets() -> None:
    with serve("[::1]:0", CollectorRegistry(), yes, yes) as place:
        assert place.startswith("[::1]:")
        assert ask(place, "/readyz") == (200, "text/plain; charset=utf-8", "ok\n")


def test_health_and_readiness_are_asked_each_time_and_say_why_not() -> None:
    reasons = {"alive": "", "ready": "etcd was not\nreached yet"}
    with serving(lambda: reasons["alive"], lambda: reasons["ready"]) as place:
        assert ask(place, "/healthz")[0::2] == (200, "ok\n")
        assert ask(place, "/readyz")[0::2] == (503, "etcd was not reached yet\n")
        reasons.update(alive="the loop has not ticked for 61 s", ready="")
        assert ask(place, "/healthz")[0::2] == (503, "the loop has not ticked for 61 s\n")
        assert ask(place, "/readyz")[0::2] == (200, "ok\n")


@pytest.mark.parametrize("path", PATHS)
def test_head_is_the_same_without_a_body(path: str) -> None:
    with serving() as place:
        assert ask(place, path, "HEAD") == (*ask(place, path)[:2], "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FROB"])
def test_other_methods_are_refused(method: str) -> None:
    with serving() as place:
        assert ask(place, "/metrics", method)[0::2] == (405, "only GET and HEAD\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/../healthz", "/favicon.ico", "/%2e%2e/etc/passwd"])
def test_other_paths_are_not_found(path: str) -> None:
    with serving() as place:
        assert ask(place, path)[0::2] == (404, "see /metrics, /healthz and /readyz\n")


def test_a_query_changes_nothing() -> None:
    with serving() as place:
        assert ask(place, "/healthz?verbose=1")[0] == 200


class Broken(Collector):
    def collect(self) -> list[Metric]:
        raise RuntimeError("a secret")


def test_what_fails_is_told_in_the_log_without_its_words_and_the_rest_goes_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    with capture_logs() as lines, serving(registry=registry) as place:
        assert ask(place, "/metrics")[0::2] == (500, "see the log: metrics.failed\n")
        assert ask(place, "/healthz")[0] == 200
    failed = {"event": "metrics.failed", "log_level": "warning", "path": "/metrics", "because": "RuntimeError"}
    assert lines[1:] == [failed]
    assert capfd.readouterr() == ("", "")


def test_it_writes_no_lines_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs(), serving() as place:
        ask(place, "/metrics")
        ask(place, "/nowhere")
        with connected(place) as rude:
            rude.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
            assert b"400" in rude.recv(1000)
        with connected(place) as gone:
            gone.sendall(b"GET /metrics HTTP/1.1\r\n")
    assert capfd.readouterr() == ("", "")


@contextmanager
def connected(place: str) -> Iterator[socket.socket]:
    host, _, port = place.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def test_a_silent_client_is_hung_up_on_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_ASK_SECONDS", 0.3)
    with serving() as place, connected(place) as silent:
        assert ask(place, "/healthz")[0] == 200
        assert silent.recv(1) == b""


def test_a_client_that_dribbles_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_ASK_SECONDS", 0.3)
    with serving() as place, connected(place) as slow, pytest.raises(OSError, match=r"pipe|reset"):
        dribble(slow, seconds=30)


def dribble(connection: socket.socket, seconds: float) -> None:
    """Sends a byte often enough that no single read takes too long."""
    until = monotonic() + seconds
    while monotonic() < until:
        connection.sendall(b"X")
        threading.Event().wait(0.05)


@pytest.mark.parametrize("head", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a head"])
def test_any_number_of_silent_clients_keeps_no_probe_waiting(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_ASK_SECONDS", 60.0)
    with serving() as place, ExitStack() as stack:
        for _ in range(3):
            clients = [stack.enter_context(connected(place)) for _ in range(exposition._AT_ONCE)]
            for client in clients:
                with suppress(OSError):  # a newer one may have its place already
                    client.sendall(head)
            # All of them are silent, and stay: it needs no end of theirs, which is a minute away.
            assert ask(place, "/healthz")[0::2] == (200, "ok\n")
        assert sum(thread.name == "metrics" for thread in threading.enumerate()) <= exposition._AT_ONCE + 1


def test_who_has_asked_keeps_its_place_among_silent_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_AT_ONCE", 3)
    asked, answer = threading.Semaphore(0), threading.Event()

    def slow() -> str:
        asked.release()
        return "" if answer.wait(30) else "never"

    with serving(slow) as place, connected(place) as first, ExitStack() as stack:
        first.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert asked.acquire(timeout=30)
        silent = [stack.enter_context(connected(place)) for _ in range(5)]
        assert [one.recv(1) for one in silent[:3]] == [b""] * 3
        answer.set()
        assert first.recv(1000).startswith(b"HTTP/1.0 200 OK")


def test_only_so_many_are_served_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_AT_ONCE", 2)
    asked, answer = threading.Semaphore(0), threading.Event()

    def slow() -> str:
        asked.release()
        return "" if answer.wait(30) else "never"

    with serving(slow) as place, connected(place) as first, connected(place) as second:
        for one in (first, second):
            one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert asked.acquire(timeout=30)
        with connected(place) as third:
            assert third.recv(1) == b""
        answer.set()
        assert first.recv(1000).startswith(b"HTTP/1.0 200 OK")
        assert second.recv(1000).startswith(b"HTTP/1.0 200 OK")


def test_the_port_is_free_when_the_block_ends() -> None:
    with serving() as place:
        pass
    with serve(place, CollectorRegistry(), yes, yes) as again:
        assert again == place


def test_a_port_in_use_is_refused_with_the_way_out() -> None:
    with serving() as place, pytest.raises(SettingsError) as caught, serve(place, CollectorRegistry(), yes, yes):
        pass
    assert str(caught.value) == (
        f"settings: service.metrics_addr: {place} is in use; choose another port, or an address of this machine"
    )


@pytest.mark.parametrize("address", ["192.0.2.1:9464", "no-such-host.invalid:9464"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=f"service.metrics_addr: {address} can't be listened on: .+; choose"):
        serve(address, CollectorRegistry(), yes, yes).__enter__()
