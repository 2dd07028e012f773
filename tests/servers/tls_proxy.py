"""TLS in front of a server that speaks clear text only: a real handshake, with client certificates required."""

import select
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Self

from tests.servers.certificates import Certificates

_HANDSHAKE_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 5.0
_TLS_HANDSHAKE = b"\x16"


class TlsProxy:
    """A context manager; clients with a certificate of the authority's reach `target` on loopback through `port`.

    `plain_too` also lets clear text through, for clients that a test does not look at, such as a sentinel's own.
    """

    def __init__(self, target: int, certificates: Certificates, *, plain_too: bool = False) -> None:
        """`target`: the server's port."""
        self._target = target
        self._plain_too = plain_too
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.cacert)
        self._context.load_cert_chain(certificates.server_cert, certificates.server_key)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name=f"TLS before port {target}")]

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        deadline = time.monotonic() + _STOP_SECONDS
        # The first one appends to the list, so it has to end before the others are counted.
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listener], [], [], _LOOK_SECONDS)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with (
                plain,
                self._secured(plain) as client,
                socket.create_connection(("127.0.0.1", self._target), _CONNECT_SECONDS) as server,
            ):
                self._carry(client, server)
        except OSError:
            # A handshake that failed, or a side that ended in the middle: the other sees the end of its connection.
            return

    def _secured(self, plain: socket.socket) -> socket.socket:
        plain.settimeout(_HANDSHAKE_SECONDS)
        if self._plain_too and plain.recv(1, socket.MSG_PEEK) != _TLS_HANDSHAKE:
            return plain
        return self._context.wrap_socket(plain, server_side=True)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Until one side ends. In one thread, because a TLS connection is not for two."""
        other = {client: server, server: client}
        while not self._stopping.is_set():
            for ready in select.select([client, server], [], [], _LOOK_SECONDS)[0]:
                data = ready.recv(65_536)
                # What the TLS layer has read already is not seen by select.
                while isinstance(ready, ssl.SSLSocket) and ready.pending():
                    data += ready.recv(ready.pending())
                if not data:
                    return
                other[ready].sendall(data)
