"""Finds the likely cause why Redis can't be used, where the client's error does not show it.

`why_unavailable` opens up to two connections to Redis, or to the first sentinel, and sends a bare PING: no password.
"""

from __future__ import annotations

import asyncio

from kube_rewrap.config.library_errors import BROKE, TLS_FAILED, is_unclear, why_unreachable
from kube_rewrap.config.settings.broker import Broker
from kube_rewrap.worker.tls_probe import serves_tls

_SECONDS = 1.0
_CUT_OFF = (
    "TLS works, and then the connection broke; does it require a client certificate (--broker-cert and --broker-key), "
    "and does Redis run behind it?"
)
_ANSWERS = (b"+PONG", b"-NOAUTH", b"-NOPERM", b"-DENIED", b"-LOADING", b"-ERR")


async def why_unavailable(broker: Broker, error: BaseException) -> str:
    """Return a sentence of ours about a client's error, within about three seconds; it quotes no text of a server."""
    host, port = broker.nodes[0]
    sentence = why_unreachable(error, has_password=broker.password is not None)
    if not is_unclear(sentence) or (answer := await _ping(host, port)) is None:
        return sentence
    if answer.startswith(_ANSWERS):
        return sentence if broker.tls is None else "it speaks no TLS; write redis:// for rediss://"
    if broker.tls is not None:
        # A server that lacks our certificate may end the connection before the client reads its alert.
        is_cut = sentence in {BROKE, TLS_FAILED} and await serves_tls(host, port)
        return _CUT_OFF if is_cut else sentence
    if await serves_tls(host, port):
        return "it requires TLS; write rediss:// for redis://, with --broker-cacert for an authority of your own"
    return "the server that answers is not Redis" if answer else sentence


async def _ping(host: str, port: int) -> bytes | None:
    """Return the start of the answer to a PING in clear text, b"" if there is none, None without a connection."""
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return None
    try:
        writer.write(b"PING\r\n")
        async with asyncio.timeout(_SECONDS):
            return await reader.read(64)
    except OSError:
        return b""
    finally:
        writer.transport.abort()
