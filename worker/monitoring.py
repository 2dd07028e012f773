"""Serves metrics and health over HTTP, from threads of its own, so that it answers while the process is busy.

`/metrics`, `/healthz` and `/readyz`, by GET or HEAD, in plain text without TLS or login: the answers hold no secret,
and a network policy limits access. At most `_AT_ONCE` connections are open at once. A connection must send its request
within `_ASK_SECONDS`; until then the server may close it for a newer one, so that idle clients can't keep a probe
waiting. The server answers each connection that has sent its request.
"""

from __future__ import annotations

import errno
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from kube_rewrap.config.errors import Fault, SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_ASK_SECONDS = 2.0
"""Time limit for a whole request head. kubelet's probes send it at once, and wait one second for the answer."""

_SECONDS = 5.0
"""Time limit for each read and write on a connection. Prometheus scrapes every few seconds."""

_AT_ONCE = 64
_PLACE_SECONDS = 0.5
"""Longest wait for a free place: an answer takes milliseconds."""

_ADDRESS = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>0|[1-9][0-9]{0,4})")
_TEXT = "text/plain; charset=utf-8"
_log = structlog.get_logger()

Question = Callable[[], str]
"""Returns "" for yes, or the reason why not. Called from another thread: it may only read values."""


@contextmanager
def serve(address: str, registry: CollectorRegistry, alive: Question, ready: Question) -> Iterator[str]:
    """Serve while the block runs; yields HOST:PORT, with the real port if `address` has port 0.

    A host name is resolved once, and its first address is used. Raises SettingsError for an address that can't be
    used.
    """
    host, port = parse_address(address)
    server = _listen(host, port, _application(registry, alive, ready))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    place = _address(host, server.server_port)
    _log.info("metrics.serving", address=place)
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_SECONDS)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[IPv6]:PORT`. Raises SettingsError for anything else."""
    found = _ADDRESS.fullmatch(address)
    if found is not None and int(found["port"]) < 2**16:
        return found["ipv6"] or found["host"], int(found["port"])
    raise _refused("is not HOST:PORT", "write 127.0.0.1:9464, [::1]:9464, or 0.0.0.0:9464 for all addresses")


class _Server(WSGIServer):
    """One thread per connection, each with a time limit; writes nothing to stderr."""

    request_queue_size = 2 * _AT_ONCE

    def __init__(self, family: socket.AddressFamily, place: tuple[str, int], application: WSGIApplication) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        # Connections without a complete request head, the oldest first, with the time of their arrival.
        self._silent: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(place, _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Bind without the library's reverse lookup of the host name, which is slow without a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: object) -> None:
        """Give a connection to a thread; when all places are taken, close the oldest silent one first."""
        if not self._free.acquire(blocking=False):
            self._hang_up(1)
            if not self._free.acquire(timeout=_PLACE_SECONDS):
                self.shutdown_request(request)
                return
        with self._lock:
            self._silent[request] = monotonic()
        threading.Thread(target=self._work, args=(request, client_address), name="metrics", daemon=True).start()

    def service_actions(self) -> None:
        """Close connections that take too long to send a head; one that sends byte by byte exceeds no read's limit."""
        late = monotonic() - _ASK_SECONDS
        with self._lock:
            overdue = sum(since <= late for since in self._silent.values())
        self._hang_up(overdue)

    def has_asked(self, request: socket.socket) -> None:
        """Note that a connection's request head arrived: from now on it keeps its place."""
        with self._lock:
            self._silent.pop(request, None)

    def _hang_up(self, oldest: int) -> None:
        with self._lock:
            for request in list(self._silent)[:oldest]:
                del self._silent[request]
                with suppress(OSError):  # the client may have closed it
                    request.shutdown(socket.SHUT_RDWR)

    def _work(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - the top of a thread
            self.handle_error(request, client_address)
        finally:
            self.has_asked(request)
            self.shutdown_request(request)
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a failed connection at debug level: clients may hang up at any time."""
        del request, client_address
        _log.debug("metrics.not_answered", because=type(sys.exception()).__name__)


class _Handler(WSGIRequestHandler):
    server: _Server
    timeout = _SECONDS

    def parse_request(self) -> bool:
        """Read the head as the library does, and note that it arrived."""
        is_good = super().parse_request()
        self.server.has_asked(self.request)
        return is_good

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's own name
        """Log nothing: a scrape every few seconds would fill the log."""

    def get_stderr(self) -> TextIO:
        """Discard the library's tracebacks, which would mix with our JSON lines."""
        return StringIO()


def _application(registry: CollectorRegistry, alive: Question, ready: Question) -> WSGIApplication:
    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        try:
            status, kind, body = _answer(environment, registry, alive, ready)
        except Exception as error:  # noqa: BLE001 - any error of a question becomes an answer
            _log.warning("metrics.failed", path=environment.get("PATH_INFO"), because=type(error).__name__)
            status, kind, body = "500 Internal Server Error", _TEXT, b"see the log: metrics.failed\n"
        allow = [("Allow", "GET, HEAD")] if status.startswith("405") else []
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *allow])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    return answer


def _answer(
    environment: WSGIEnvironment, registry: CollectorRegistry, alive: Question, ready: Question
) -> tuple[str, str, bytes]:
    """Return status, content type and body."""
    if environment["REQUEST_METHOD"] not in {"GET", "HEAD"}:
        return "405 Method Not Allowed", _TEXT, b"only GET and HEAD\n"
    match environment.get("PATH_INFO"):
        case "/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
        case "/healthz":
            return _health(alive)
        case "/readyz":
            return _health(ready)
    return "404 Not Found", _TEXT, b"see /metrics, /healthz and /readyz\n"


def _health(question: Question) -> tuple[str, str, bytes]:
    reason = " ".join(question().split())
    status = "503 Service Unavailable" if reason else "200 OK"
    return status, _TEXT, f"{reason or 'ok'}\n".encode(errors="backslashreplace")


def _listen(host: str, port: int, application: WSGIApplication) -> _Server:
    try:
        [(family, _, _, _, place), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _Server(family, (str(place[0]), port), application)
    except OSError as error:
        fault = "is in use" if error.errno == errno.EADDRINUSE else f"can't be listened on: {error.strerror}"
        place_text = _address(host, port)
        raise _refused(f"{place_text} {fault}", "choose another port, or an address of this machine") from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(message: str, remedy: str) -> SettingsError:
    return SettingsError("settings", (Fault("service.metrics_addr", message, remedy),))
