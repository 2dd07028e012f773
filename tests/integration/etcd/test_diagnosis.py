"""The error of a failed first contact names the likely cause, against real servers and real TLS."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.etcd.client import open_store
from tests.servers.certificates import Certificates
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.ports import free_ports
from tests.servers.redis import RedisOptions, RedisServer
from tests.servers.tls_proxy import TlsProxy

pytestmark = pytest.mark.timeout(60)


def trusted(cluster: EtcdCluster) -> EtcdSettings:
    """Settings that reach a cluster with TLS."""
    assert cluster.certificates is not None
    files = cluster.certificates
    return EtcdSettings(
        endpoints=tuple(cluster.endpoints),
        cacert=str(files.cacert),
        cert=str(files.cert),
        key=str(files.key),
        connect_timeout=60.0,
    )


async def refusal(settings: EtcdSettings) -> str:
    """The message of the first contact's error."""
    with pytest.raises(UnavailableError) as caught:
        async with asyncio.timeout(50), open_store(settings, "/kube-rewrap"):
            pass
    message = str(caught.value)
    assert all(url in message for url in settings.endpoints)
    return message


@pytest.fixture
def stranger(tmp_path: Path) -> tuple[str, str, str]:
    """The files of another authority, of a client certificate that it signed, and of that one's key."""
    authority = trustme.CA()
    client = authority.issue_cert("stranger.test")
    paths = [tmp_path / f"stranger.{kind}" for kind in ("ca", "crt", "key")]
    authority.cert_pem.write_to_path(paths[0])
    client.cert_chain_pems[0].write_to_path(paths[1])
    client.private_key_pem.write_to_path(paths[2])
    return str(paths[0]), str(paths[1]), str(paths[2])


async def test_http_where_etcd_speaks_tls(etcd_tls: EtcdCluster) -> None:
    [url] = etcd_tls.endpoints
    settings = EtcdSettings(endpoints=(url.replace("https:", "http:"),), connect_timeout=60.0)
    assert "the server speaks TLS, the endpoint says http://; write https://" in await refusal(settings)


async def test_https_where_etcd_speaks_plain_http(etcd: EtcdCluster, etcd_tls: EtcdCluster) -> None:
    [url] = etcd.endpoints
    settings = replace(trusted(etcd_tls), endpoints=(url.replace("http:", "https:"),))
    assert "the server speaks plain HTTP, the endpoint says https://; write http://" in await refusal(settings)


async def test_no_client_certificate(etcd_tls: EtcdCluster) -> None:
    settings = replace(trusted(etcd_tls), cert=None, key=None)
    assert "the server requires a client certificate; give --cert and --key" in await refusal(settings)


async def test_a_client_certificate_of_another_authority(etcd_tls: EtcdCluster, stranger: tuple[str, str, str]) -> None:
    _, cert, key = stranger
    message = await refusal(replace(trusted(etcd_tls), cert=cert, key=key))
    assert f"the server refuses the client certificate of --cert {cert}; give one that etcd's client CA" in message


async def test_a_key_of_another_certificate(etcd_tls: EtcdCluster, stranger: tuple[str, str, str]) -> None:
    message = await refusal(replace(trusted(etcd_tls), key=stranger[2]))
    assert f"--key {stranger[2]} do not belong together" in message


async def test_another_authority_than_etcds(etcd_tls: EtcdCluster, stranger: tuple[str, str, str]) -> None:
    message = await refusal(replace(trusted(etcd_tls), cacert=stranger[0]))
    assert f"no authority in --cacert {stranger[0]} signed the server's certificate" in message


async def test_no_authority_at_all(etcd_tls: EtcdCluster) -> None:
    message = await refusal(replace(trusted(etcd_tls), cacert=None))
    assert "this system trusts no authority that signed the server's certificate; give etcd's with --cacert" in message


async def test_a_file_that_holds_no_certificate(etcd_tls: EtcdCluster) -> None:
    settings = trusted(etcd_tls)
    assert f"--cacert {settings.key} holds no certificate" in await refusal(replace(settings, cacert=settings.key))


@contextmanager
def served(target: EtcdCluster, directory: Path, name: str, not_after: datetime | None) -> Iterator[EtcdSettings]:
    """etcd behind TLS with a certificate for this name, until this time; yields settings that trust its authority."""
    files = Certificates.write(directory / "certificates")
    authority = trustme.CA()
    server = authority.issue_cert(name, not_after=not_after)
    authority.cert_pem.write_to_path(files.cacert)
    server.cert_chain_pems[0].write_to_path(files.server_cert)
    server.private_key_pem.write_to_path(files.server_key)
    with TlsProxy(int(target.endpoints[0].rpartition(":")[2]), files) as proxy:
        yield EtcdSettings(
            endpoints=(f"https://127.0.0.1:{proxy.port}",), cacert=str(files.cacert), connect_timeout=60.0
        )


async def test_a_certificate_for_another_name(etcd: EtcdCluster, tmp_path: Path) -> None:
    with served(etcd, tmp_path, "etcd.test", None) as settings:
        assert "the server's certificate is not for 127.0.0.1; write a name or" in await refusal(settings)


async def test_a_certificate_that_has_expired(etcd: EtcdCluster, tmp_path: Path) -> None:
    with served(etcd, tmp_path, "127.0.0.1", datetime(2020, 1, 1, tzinfo=UTC)) as settings:
        assert "the server's certificate has expired; renew it" in await refusal(settings)


class Web(BaseHTTPRequestHandler):
    """Answers as a server does that is not etcd: the body is the class' own."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class KubeApiserver(Web):
    body = b'{"major": "1", "gitVersion": "v1.36.0"}'


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (Web, "an HTTP server answers there that is not etcd's port for clients; give that port, which is 2379 mostly"),
        (KubeApiserver, "the server is a kube-apiserver; give the address of etcd, which is port 2379 mostly"),
    ],
)
async def test_another_server_than_etcd(handler: type[Web], said: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        try:
            settings = EtcdSettings(endpoints=(f"http://127.0.0.1:{server.server_port}",), connect_timeout=60.0)
            assert said in await refusal(settings)
        finally:
            server.shutdown()


async def test_redis(new_redis: Callable[[RedisOptions], RedisServer]) -> None:
    url = f"http://127.0.0.1:{new_redis(RedisOptions()).port}"
    message = await refusal(EtcdSettings(endpoints=(url,), connect_timeout=60.0))
    assert "a server answers there that is not etcd; check --endpoints" in message


async def test_no_process_listens() -> None:
    [port] = free_ports(1)
    settings = EtcdSettings(endpoints=(f"http://127.0.0.1:{port}",), connect_timeout=60.0)
    assert f"no process listens on port {port} of 127.0.0.1; does etcd run there?" in await refusal(settings)


async def test_a_name_that_does_not_resolve() -> None:
    settings = EtcdSettings(endpoints=("http://no-such-host.invalid:2379",), connect_timeout=60.0)
    assert "the name no-such-host.invalid can't be resolved; check --endpoints" in await refusal(settings)


async def test_a_process_that_accepts_and_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = EtcdSettings(endpoints=(url,), connect_timeout=0.5, call_timeout=0.5)
        assert "a process listens there, but does not answer as etcd does" in await refusal(settings)


async def test_each_endpoint_has_its_own_cause(etcd_tls: EtcdCluster) -> None:
    [url], [port] = etcd_tls.endpoints, free_ports(1)
    plain, dead = url.replace("https:", "http:"), f"http://127.0.0.1:{port}"
    message = await refusal(EtcdSettings(endpoints=(plain, dead), connect_timeout=60.0))
    assert f"{plain}: the server speaks TLS" in message
    assert f"{dead}: no process listens" in message


async def test_one_endpoint_that_answers_is_enough(etcd: EtcdCluster) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with open_store(EtcdSettings(endpoints=(dead, *etcd.endpoints)), "/kube-rewrap") as store:
        assert await store.revision() > 0


async def test_a_process_that_reached_etcd_before_waits_for_its_restart(
    new_etcd: Callable[[EtcdOptions], EtcdCluster],
) -> None:
    cluster = new_etcd(EtcdOptions())
    settings = EtcdSettings(endpoints=tuple(cluster.endpoints), connect_timeout=45.0)
    async with open_store(settings, "/kube-rewrap"):
        pass
    await asyncio.to_thread(cluster.members[0].stop)

    def start_late() -> None:
        time.sleep(1.0)
        cluster.members[0].start()

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start_late)
        async with open_store(settings, "/kube-rewrap") as store:
            assert await store.revision() > 0
        await asyncio.wrap_future(starting)
