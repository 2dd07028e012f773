"""Metrics and health over HTTP, from a thread of its own: it answers while the process is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from config.errors import Fault, SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_SECONDS = 10.0
_log = structlog.get_logger()

Question = Callable[[], str]
"""Returns "" for yes, or the reason why not."""


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's own name
        """Say nothing: who scrapes every few seconds would fill the log."""


class _Server(WSGIServer):
    address_family = WSGIServer.address_family
    daemon_threads = True


@contextmanager
def serve(address: str, registry: CollectorRegistry, alive: Question, ready: Question) -> Iterator[str]:
    """Serve `/metrics`, `/healthz` and `/readyz` while the block runs; yields HOST:PORT, with the real port.

    Raises SettingsError for an address that can't be used.
    """

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environment.get("PATH_INFO"):
            case "/metrics":
                return _reply(start, "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry))
            case "/healthz":
                return _health(start, alive())
            case "/readyz":
                return _health(start, ready())
        return _reply(start, "404 Not Found", "text/plain", b"see /metrics, /healthz and /readyz\n")

    host, port = _parsed(address)
    try:
        server = make_server(host, port, answer, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise _refused(
            f"can't be served on: {error.strerror}", "choose another port, or an address of this machine"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    place = f"{host}:{server.server_port}"
    _log.info("metrics.serving", address=place)
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_SECONDS)


def _reply(start: StartResponse, status: str, kind: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _health(start: StartResponse, reason: str) -> list[bytes]:
    status = "503 Service Unavailable" if reason else "200 OK"
    return _reply(start, status, "text/plain; charset=utf-8", f"{reason or 'ok'}\n".encode())


def _parsed(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        if parts.hostname is not None and parts.port is not None and not parts.path:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise _refused("is not HOST:PORT", "write 127.0.0.1:9464, or 0.0.0.0:9464 for all addresses")


def _refused(message: str, remedy: str) -> SettingsError:
    return SettingsError("settings", (Fault("service.metrics_addr", message, remedy),))
