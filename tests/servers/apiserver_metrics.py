"""Stand-ins for what a kube-apiserver shows of itself: its /metrics over HTTP or TLS, and its identity lease.

The text has the form of the recording (tests/golden/convergence) among lines of other metrics. What a replica runs,
whether it reloads, answers, or is there at all, is set by the test. Nothing is shared with the code under test.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.servers.certificates import Certificates

_CONTROLLER = "apiserver_encryption_config_controller"
_NAMED = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
_NOISE = "".join(f'apiserver_request_total{{code="200",resource="r{number}"}} {number}\n' for number in range(2_000))
_LEASE_SECONDS = 3600


def sha256(text: str | bytes) -> str:
    return f"sha256:{hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()}"


@dataclass(slots=True)
class Shown:
    """What one replica reports. `hash` None: it is older than v1.34. Times in seconds since 1970."""

    hash: str | None = None
    succeeded: float | None = None
    failed: float | None = None
    keks: dict[tuple[str, str], float] = field(default_factory=dict)
    """When each plugin's Status last named a KEK, by the provider's name and the hash of the key id."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a server asks for. Without certificates it speaks plain HTTP."""

    certificates: Certificates | None = None
    client_certificate: bool = False
    token: str | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, or that TLS turns away, is what some tests are about."""


@dataclass
class MetricsServer:
    """One replica. `answer`, where set, takes the place of everything that it would say."""

    name: str
    access: Access = field(default_factory=Access)
    shown: Shown = field(default_factory=Shown)
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None
    asked: list[str] = field(default_factory=list)
    port: int = 0
    _server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.access.certificates else 'http'}://127.0.0.1:{self.port}"

    @property
    def id_hash(self) -> str:
        return sha256(self.name)

    def start(self) -> Self:
        """Serves; again on its port after `go_down`."""
        self._server = server = _Server(("127.0.0.1", self.port), self._handler())
        self.port = server.server_port
        if self.access.certificates is not None:
            context = _context(self.access.certificates, asks=self.access.client_certificate)
            # The handshake is the handler thread's, or one slow client would keep all others out.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.02,), name=self.name, daemon=True).start()
        return self

    def go_down(self) -> None:
        """Nothing listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def metrics(self) -> str:
        shown, replica = self.shown, f'apiserver_id_hash="{self.id_hash}"'
        lines = [f"# TYPE {_CONTROLLER}_last_config_info gauge"]
        if shown.hash is not None:
            lines.append(f'{_CONTROLLER}_last_config_info{{{replica},hash="{shown.hash}"}} 1')
        for status, at in (("success", shown.succeeded), ("failure", shown.failed)):
            if at is not None:
                name = f"{_CONTROLLER}_automatic_reload_last_timestamp_seconds"
                lines.append(f'{name}{{{replica},status="{status}"}} {at:.16e}')
        lines += [
            f'{_NAMED}{{{replica},key_id_hash="{key_id}",provider_name="{name}"}} {at:.16e}'
            for (name, key_id), at in shown.keks.items()
        ]
        return _NOISE + "\n".join(lines) + "\n" + _NOISE

    def lease(self, *, age: float = 0.0) -> tuple[str, bytes]:
        """Its identity lease, renewed so many seconds ago: etcd key and value, as JSON is stored."""
        renewed = datetime.now(UTC) - timedelta(seconds=age)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "labels": {
                    "apiserver.kubernetes.io/identity": "kube-apiserver",
                    "kubernetes.io/hostname": f"host-of-{self.name}",
                },
            },
            "spec": {
                "holderIdentity": f"{self.name}_1",
                "leaseDurationSeconds": _LEASE_SECONDS,
                "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        return f"/registry/leases/kube-system/{self.name}", json.dumps(lease).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replica.asked.append(self.path)
                if replica.answer is not None:
                    replica.answer(self)
                elif replica.access.token and self.headers["Authorization"] != f"Bearer {replica.access.token}":
                    respond(self, b'{"kind":"Status"}', status=401)
                else:
                    respond(self, replica.metrics().encode(), status=200 if self.path == "/metrics" else 404)

            def log_message(self, *_: object) -> None:
                return

        return Handler


def respond(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    """A whole answer; `Content_Encoding="gzip"` is a header."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "text/plain; version=0.0.4")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _context(certificates: Certificates, *, asks: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.cacert)
    return context


@contextmanager
def metrics_servers(count: int, access: Access | None = None) -> Iterator[list[MetricsServer]]:
    """So many replicas with names of their own, all serving."""
    servers = [MetricsServer(f"apiserver-{'abcdefgh'[n] * 26}", access or Access()) for n in range(count)]
    try:
        yield [server.start() for server in servers]
    finally:
        for server in servers:
            server.go_down()
