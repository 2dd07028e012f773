"""Asking stand-ins for kube-apiservers over HTTP and TLS, with their leases in a real etcd."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.schema import ApiserverSettings, EtcdSettings, Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence, ReplicaState
from kube_rewrap.scheduler.apiservers.metrics_client import scrape_all
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe, wait_converged
from kube_rewrap.worker.errors import StoppedError, TemporaryError
from kube_rewrap.worker.etcd.client import EtcdStore, open_store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.golden.convergence_recording import LEASE, LEASE_KEY, LEASE_NAME
from tests.integration.apiserver import write_private
from tests.servers.apiserver_metrics import Access, MetricsServer, Shown, metrics_servers, respond, sha256
from tests.servers.certificates import Certificates
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

pytestmark = pytest.mark.timeout(60)

FILE, OTHER = sha256("file"), sha256("other")


@pytest.fixture
def replicas() -> Iterator[list[MetricsServer]]:
    """Three that run the file."""
    with metrics_servers(3) as servers:
        for server in servers:
            server.shown.hash = FILE
        yield servers


@pytest.fixture
def gateway(etcd: EtcdCluster, replicas: list[MetricsServer]) -> Gateway:
    """With the leases of all three."""
    gateway = etcd.admin()
    for server in replicas:
        gateway.put(*server.lease())
    gateway.put("/registry/leases/kube-system/kube-scheduler", b"k8s:enc:none of our business")
    return gateway


@pytest.fixture
async def store(etcd: EtcdCluster, gateway: Gateway) -> AsyncIterator[EtcdStore]:
    async with open_store(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as opened:
        yield opened


def settings_for(servers: list[MetricsServer]) -> ApiserverSettings:
    return ApiserverSettings(addresses=tuple(server.url for server in servers), timeout=20.0)


def convergence(servers: list[MetricsServer], store: EtcdStore, file: Path | None = None) -> ApiserverProbe:
    return ApiserverProbe(Settings(apiservers=settings_for(servers)), store, str(file) if file else None)


def states(verdict: Convergence) -> list[ReplicaState]:
    return [one.state for one in verdict.replicas]


async def test_all_run_it_and_one_after_another_does_not(replicas: list[MetricsServer], store: EtcdStore) -> None:
    looking = convergence(replicas, store)
    verdict = await looking.probe(FILE)
    assert (verdict.is_converged, verdict.because) == (True, f"all kube-apiservers (3) run {FILE}")
    assert [(one.address, one.id, one.name) for one in verdict.replicas] == [
        (server.url, server.id_hash, server.name) for server in replicas
    ]
    assert [server.asked for server in replicas] == [["/metrics"]] * 3
    replicas[0].shown = Shown(OTHER)
    replicas[1].shown = Shown(OTHER, 1.7e9, 1.8e9)
    replicas[2].go_down()
    verdict = await looking.probe(FILE)
    assert not verdict.is_converged
    down = [ReplicaState.UNREACHABLE, ReplicaState.NOT_LISTED]
    assert states(verdict) == [ReplicaState.OTHER, ReplicaState.FAILING, *down]
    replicas[2].start()
    for server in replicas:
        server.shown = Shown(FILE)
    assert (await looking.probe(FILE)).is_converged


async def test_a_replica_that_is_not_named_is_noticed_until_its_lease_is_over(
    replicas: list[MetricsServer], store: EtcdStore, gateway: Gateway
) -> None:
    looking = convergence(replicas[:2], store)
    verdict = await looking.probe(FILE)
    assert (verdict.is_converged, verdict.replicas[2].name) == (False, replicas[2].name)
    assert f"{replicas[2].name} on host-of-{replicas[2].name} has a live lease" in verdict.because
    gateway.put(*replicas[2].lease(age=3700.0))
    assert (await looking.probe(FILE)).is_converged


async def test_leases_that_are_stored_encrypted_leave_the_number_open(
    replicas: list[MetricsServer], store: EtcdStore, gateway: Gateway
) -> None:
    gateway.put(replicas[0].lease()[0], b"k8s:enc:secretbox:v1:key1:" + bytes(60))
    verdict = await convergence(replicas, store).probe(FILE)
    assert states(verdict) == [ReplicaState.CONVERGED] * 3 + [ReplicaState.UNKNOWN]
    assert verdict.because.startswith(f"how many kube-apiservers there are is not known: {replicas[0].lease()[0]}: ")


async def test_more_leases_than_a_page_holds(replicas: list[MetricsServer], store: EtcdStore, gateway: Gateway) -> None:
    gateway.put_all(dict(MetricsServer(f"apiserver-x{number:03}").lease() for number in range(205)))
    verdict = await convergence(replicas, store).probe(FILE)
    assert states(verdict).count(ReplicaState.NOT_LISTED) == 205


async def test_the_recorded_lease_in_protobuf(
    replicas: list[MetricsServer], store: EtcdStore, gateway: Gateway
) -> None:
    gateway.put(LEASE_KEY.decode(), LEASE)
    verdict = await convergence(replicas, store).probe(FILE)
    # Live or over, by the clock of whoever runs this; understood in either case.
    assert {one.name for one in verdict.replicas} <= {server.name for server in replicas} | {LEASE_NAME}
    assert ReplicaState.UNKNOWN not in states(verdict)


async def test_before_1_34_only_times_tell(replicas: list[MetricsServer], store: EtcdStore, tmp_path: Path) -> None:
    file = write_private(tmp_path / "enc.yaml", "x")
    changed_at = file.stat().st_mtime
    for server in replicas:
        server.shown = Shown(None, changed_at + 30.0)
    assert states(await convergence(replicas, store, file).probe(FILE)) == [ReplicaState.BY_TIMESTAMP] * 3
    assert states(await convergence(replicas, store).probe(FILE)) == [ReplicaState.UNKNOWN] * 3
    replicas[0].shown = Shown(None, changed_at - 30.0)
    verdict = await convergence(replicas, store, file).probe(FILE)
    assert (verdict.is_converged, verdict.replicas[0].state) == (False, ReplicaState.UNKNOWN)
    assert states(await convergence(replicas, store, tmp_path / "gone").probe(FILE)) == [ReplicaState.UNKNOWN] * 3


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.write(tmp_path / "pki")


async def test_tls_with_a_client_certificate(certificates: Certificates) -> None:
    with metrics_servers(1, Access(certificates, client_certificate=True)) as [server]:
        server.shown.hash = FILE
        settings = ApiserverSettings((server.url,), cacert=str(certificates.cacert), timeout=20.0)
        [answer] = await scrape_all(settings)
        assert (answer.reached, answer.reports) == (False, ())
        assert "client certificate" in answer.fault, "its alert, or the end of the connection, whichever is read first"
        [answer] = await scrape_all(replace(settings, cert=str(certificates.cert), key=str(certificates.key)))
        assert [report.hashes for report in answer.reports] == [(FILE,)]


async def test_a_server_with_a_certificate_of_somebody_else_is_not_believed(
    certificates: Certificates, tmp_path: Path
) -> None:
    others = Certificates.write(tmp_path / "others")
    with metrics_servers(1, Access(certificates)) as [server]:
        for cacert in (str(others.cacert), None):
            [answer] = await scrape_all(ApiserverSettings((server.url,), cacert=cacert, timeout=20.0))
            assert "no trusted authority signed its certificate; give the one that did with" in answer.fault
        assert server.asked == []


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("https://127.0.0.1:1", "no process listens there; does the kube-apiserver run? Check --apiserver"),
        ("https://no-such-host.invalid:6443", "its name can't be resolved; check --apiserver"),
        ("https://localhost:{plain}", "it speaks no TLS; is this the address of a kube-apiserver? Check --apiserver"),
    ],
)
async def test_why_there_is_no_connection_is_said_in_plain_words(address: str, fault: str) -> None:
    with metrics_servers(1) as [server]:
        port = server.url.rpartition(":")[2]
        [answer] = await scrape_all(ApiserverSettings((address.format(plain=port),), timeout=20.0))
    assert (answer.reached, answer.fault) == (False, f"can't be reached: {fault}")


async def test_a_token_is_read_anew_and_never_shown(certificates: Certificates, tmp_path: Path) -> None:
    file = write_private(tmp_path / "token", "canary-old\n")
    with metrics_servers(1, Access(certificates, token="canary-new")) as [server], capture_logs() as logs:
        settings = ApiserverSettings((server.url,), cacert=str(certificates.cacert), token_file=str(file), timeout=20.0)
        [answer] = await scrape_all(settings)
        assert answer.reached
        assert answer.fault.startswith("it answered 401: it does not accept the token or the client certificate, ")
        file.write_text("canary-new\n")
        [answer] = await scrape_all(settings)
        assert (answer.fault, len(answer.reports)) == ("", 0)
        assert "canary" not in repr((answer, logs))


@pytest.mark.parametrize("content", ["", "two words", "canary\x00", "canär", "x" * 70_000], ids=repr)
async def test_a_file_without_a_token_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    file = write_private(tmp_path / "token", content)
    with pytest.raises(SettingsError, match=r"apiservers\.token_file") as caught:
        await scrape_all(ApiserverSettings(("https://127.0.0.1:1",), token_file=str(file)))
    assert "can" not in str(caught.value).replace("can't", "")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"cacert": "/nonexistent"}, "apiservers.cacert: /nonexistent can't be used: No such file"),
        ({"cacert": __file__}, "it does not hold what it should"),
        ({"cert": "/nonexistent", "key": "/nonexistent"}, "apiservers.cert: /nonexistent can't be used: No such file"),
        ({"token_file": "/nonexistent"}, "apiservers.token_file: /nonexistent can't be used: No such file"),
    ],
)
async def test_a_file_that_can_not_be_used_is_named(given: dict[str, str], place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await scrape_all(replace(ApiserverSettings(("https://127.0.0.1:1",)), **given))  # type: ignore[arg-type]
    assert place in str(caught.value)


def redirect(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b"", status=302, Location="/metrics2")


def expects_tls(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b"Client sent an HTTP request to an HTTPS server.\n", status=400)


def compress(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, gzip.compress(b"\n" * 100), Content_Encoding="gzip")


def endless_line(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b"x" * 200_000)


def flood(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, (b"# " + b"x" * 998 + b"\n") * 34_000)


def many_series(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b'apiserver_encryption_config_controller_last_config_info{x="y"} 1\n' * 2_000)


def damaged(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b"apiserver_encryption_config_controller_last_config_info{} 1\n")


def page(handler: BaseHTTPRequestHandler) -> None:
    respond(handler, b"<html>Sign in</html>")


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"apiserver_encryption_config_controller_last_config_info{")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answers", "reached", "fault"),
    [
        (redirect, True, "it answered 302, and no metrics"),
        (expects_tls, True, "it answered 400: it may speak TLS; write https:// in --apiserver"),
        (compress, True, "it answered with compressed metrics that were not asked for"),
        (endless_line, True, "its answer is not metrics in Prometheus' text format"),
        (flood, True, "its metrics are larger than 32 MiB"),
        (many_series, True, "its answer is not metrics in Prometheus' text format"),
        (damaged, True, "the label apiserver_id_hash is not a hash"),
        (page, True, ""),
        (cut_off, False, "can't be reached: RemoteProtocolError"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_answer_that_is_none(
    replicas: list[MetricsServer], answers: Callable[[BaseHTTPRequestHandler], None], reached: bool, fault: str
) -> None:
    replicas[0].answer = answers
    first, *rest = await scrape_all(settings_for(replicas))
    assert (first.reached, first.fault[: len(fault)], first.reports) == (reached, fault, ())
    assert [report.hashes for answer in rest for report in answer.reports] == [(FILE,), (FILE,)]
    assert replicas[0].asked == ["/metrics"]


async def test_one_that_never_ends_its_answer_costs_no_more_than_the_bound(replicas: list[MetricsServer]) -> None:
    done = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not done.wait(0.05):
            handler.wfile.write(b"# x\n")

    replicas[1].answer = trickle
    try:
        # Long enough for the other two, however busy the machine is.
        first, second, third = await scrape_all(replace(settings_for(replicas), timeout=4.0))
    finally:
        done.set()
    assert (second.reached, second.fault) == (False, "no whole answer within 4 s")
    assert (len(first.reports), len(third.reports)) == (1, 1)


async def test_a_proxy_of_the_environment_is_passed_by(
    replicas: list[MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name)
    assert [len(answer.reports) for answer in await scrape_all(settings_for(replicas))] == [1, 1, 1]


async def test_an_address_may_have_a_path(replicas: list[MetricsServer]) -> None:
    await scrape_all(ApiserverSettings((f"{replicas[0].url}/metrics", f"{replicas[1].url}/", f"{replicas[2].url}/a/b")))
    assert [server.asked for server in replicas] == [["/metrics"], ["/metrics"], ["/a/b"]]


async def test_waiting_ends_when_the_last_one_came_and_says_each_reason_once(
    replicas: list[MetricsServer], store: EtcdStore
) -> None:
    for server in replicas[1:]:
        server.shown.hash = OTHER
    looking, looks = convergence(replicas, store), 0

    async def look() -> Convergence:
        nonlocal looks
        looks += 1
        if looks in {4, 7}:
            replicas[1 + looks // 6].shown.hash = FILE
        return await looking.probe(FILE)

    with capture_logs() as logs:
        verdict = await wait_converged(look, Brake(), 30.0, pause=0.01)
    assert (verdict.is_converged, looks) == (True, 7)
    assert [(entry["event"], entry["because"]) for entry in logs] == [
        ("convergence.waiting", f"{replicas[1].url} runs {OTHER}; and 1 more"),
        ("convergence.waiting", f"{replicas[2].url} runs {OTHER}"),
        ("convergence.reached", f"all kube-apiservers (3) run {FILE}"),
    ]


async def test_waiting_has_a_bound(replicas: list[MetricsServer], store: EtcdStore) -> None:
    replicas[0].shown.hash = OTHER
    looking = convergence(replicas, store)
    with capture_logs() as logs:
        verdict = await wait_converged(lambda: looking.probe(FILE), Brake(), 0.2, pause=0.05)
    assert not verdict.is_converged
    assert [entry["event"] for entry in logs] == ["convergence.waiting", "convergence.timed_out"]


async def test_waiting_stops_when_the_brake_is_pulled(replicas: list[MetricsServer], store: EtcdStore) -> None:
    replicas[0].shown.hash = OTHER
    looking, brake = convergence(replicas, store), Brake()
    looked = asyncio.Event()

    async def look() -> Convergence:
        verdict = await looking.probe(FILE)
        looked.set()
        return verdict

    waiting = asyncio.create_task(wait_converged(look, brake, 600.0, pause=600.0))
    await looked.wait()
    brake.pull(StoppedError("stopped by SIGTERM"))
    with pytest.raises(StoppedError, match="SIGTERM"):
        async with asyncio.timeout(30):
            await waiting


async def test_waiting_outlasts_an_etcd_that_is_away_but_not_past_the_bound() -> None:
    away = [True, True, False]

    async def look() -> Convergence:
        if away.pop(0):
            raise TemporaryError("no endpoint answers")
        return Convergence(is_converged=True, file_hash=FILE, because="all run it")

    with capture_logs() as logs:
        assert (await wait_converged(look, Brake(), 30.0, pause=0.01)).is_converged
    assert [entry["event"] for entry in logs] == ["convergence.waiting", "convergence.reached"]
    away[:] = [True] * 100
    with pytest.raises(TemporaryError):
        await wait_converged(look, Brake(), 0.05, pause=0.01)


async def test_an_operators_word_counts_for_this_file_and_never_against_what_a_replica_says(
    replicas: list[MetricsServer], store: EtcdStore
) -> None:
    nobody = convergence([], store)
    assert (await nobody.probe(FILE)).because.startswith("no address of a kube-apiserver is given")
    audit = AuditLog(store, Keyspace(), "rewrap converged")
    given = await nobody.assume(FILE, "restarted all of them", audit)
    assert (await nobody.probe(FILE)).because == given.because
    assert (given.is_converged, given.assumed) == (True, "restarted all of them")
    assert not (await nobody.probe(OTHER)).is_converged
    # Two replicas have leases that no address speaks for: nobody can tell, so the word counts.
    assert (await convergence(replicas[:1], store).probe(FILE)).assumed == "restarted all of them"
    replicas[0].shown.hash = OTHER
    contradicted = await convergence(replicas[:1], store).probe(FILE)
    assert (contradicted.is_converged, contradicted.assumed) == (False, None)
    entries = [entry async for entry in audit.entries()]
    assert [(entry.event, entry.detail) for entry in entries] == [
        ("convergence.assumed", {"file_hash": FILE, "reason": "restarted all of them"})
    ]
