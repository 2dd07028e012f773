"""Finds the likely cause of a failed first contact with an etcd endpoint; gRPC's own texts are vague.

`diagnose` opens up to two connections with the TLS files of the settings, and sends `GET /version`: no password, no
token. It is called after a failure only. A result quotes no text of the server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from kube_rewrap.config.library_errors import Distrust, distrust_of, is_alert
from kube_rewrap.config.settings.endpoints import scheme_of
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.tls_probe import serves_tls

_SECONDS = 1.0
"""Limit of one connection, and again of the answer on it."""

_MOST_READ = 16 * 1024
_REQUEST = "GET /version HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"
_KUBEADM = "/etc/kubernetes/pki/etcd/ca.crt on a kubeadm node"

_NO_HTTP2 = "Failed parsing HTTP/2"
"""What gRPC says of a server that answers in another protocol, such as Redis."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an endpoint does not answer: one sentence, with its remedy after a semicolon."""

    text: str
    lasts: bool
    """Whether a retry within seconds would fail, too, unless etcd is just restarting."""


async def diagnose_each(settings: EtcdSettings, last: str) -> dict[str, Cause]:
    """Return the likely cause for each endpoint, by its URL, as `diagnose` does; all are asked side by side."""
    causes = await asyncio.gather(*(diagnose(url, settings, last) for url in settings.endpoints))
    return dict(zip(settings.endpoints, causes, strict=True))


def unanswered(causes: Mapping[str, Cause]) -> str:
    """Return a sentence that names each endpoint with its cause; a cause that all share, once."""
    texts = {cause.text for cause in causes.values()}
    if len(texts) == 1:
        return f"no etcd endpoint of {', '.join(causes)} answered: {texts.pop()}"
    return f"no etcd endpoint answered. {'. '.join(f'{url}: {cause.text}' for url, cause in causes.items())}"


async def diagnose(url: str, settings: EtcdSettings, last: str) -> Cause:
    """Return the likely cause, within about three seconds; `last` is the message of the call that failed."""
    unclear = Cause(f"{last}; check --endpoints, --cacert, --cert and --key", lasts=False)
    parts = urlsplit(url if "://" in url else f"{scheme_of(url, settings)}://{url}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return unclear
    host, port = parts.hostname, parts.port or 2379
    secure = parts.scheme == "https"
    answer = b""
    try:
        answer = await _ask(host, port, _context(settings) if secure else None)
    except (_FilesError, OSError) as error:
        if (cause := _of_error(error, settings, host, port)) is not None:
            return cause
    if b'"etcdserver"' in answer:
        return Cause(
            f"etcd runs there, but the call failed: {last}; is the cluster without a leader or a quorum? "
            "See `etcdctl endpoint status --cluster`",
            lasts=False,
        )
    if (cause := await _other_protocol(host, port, secure=secure, answer=answer)) is not None:
        return cause
    if _NO_HTTP2 in last:
        return Cause("a server answers there that is not etcd; check --endpoints", lasts=True)
    return Cause(
        f"a process listens there, but does not answer as etcd does: {last}; is it etcd, and does it hang?", lasts=False
    )


async def _other_protocol(host: str, port: int, *, secure: bool, answer: bytes) -> Cause | None:
    """Return the cause where the server speaks http for https, the reverse, or is an HTTP server other than etcd."""
    if not secure and await serves_tls(host, port):
        return Cause(
            "the server speaks TLS, the endpoint says http://; write https://, with --cacert, --cert and --key",
            lasts=True,
        )
    if secure and not answer and await _speaks_http(host, port):
        return Cause(
            "the server speaks plain HTTP, the endpoint says https://; write http://, without --cacert, --cert and "
            "--key, or turn on TLS in etcd",
            lasts=True,
        )
    if b'"gitVersion"' in answer or b'"kind": "Status"' in answer:
        return Cause(
            "the server is a kube-apiserver; give the address of etcd, which is port 2379 mostly "
            "(kube-apiserver's --etcd-servers names it)",
            lasts=True,
        )
    if answer.startswith(b"HTTP/"):
        return Cause(
            "an HTTP server answers there that is not etcd's port for clients; give that port, which is 2379 mostly "
            "(kube-apiserver's --etcd-servers names it; 2380 is for etcd's peers, 2381 for its metrics)",
            lasts=True,
        )
    return None


async def _speaks_http(host: str, port: int) -> bool:
    try:
        return (await _ask(host, port, None)).startswith(b"HTTP/")
    except OSError:
        return False


async def _ask(host: str, port: int, context: ssl.SSLContext | None) -> bytes:
    """Return the start of the answer, b"" if there is none. Raises OSError for a failed connection or handshake."""
    async with asyncio.timeout(_SECONDS):
        name = host if context else None
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    answer = b""
    try:
        writer.write(_REQUEST.format(host).encode())
        async with asyncio.timeout(_SECONDS):
            while len(answer) < _MOST_READ and (more := await reader.read(_MOST_READ)):
                answer += more
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return answer


class _FilesError(Exception):
    """The TLS files of the settings can't be used; the message says why."""


def _context(settings: EtcdSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    if settings.cacert is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(settings.cacert)
        except (ssl.SSLError, OSError):
            raise _FilesError(f"--cacert {settings.cacert} holds no certificate in PEM; give {_KUBEADM}") from None
    if settings.cert is not None and settings.key is not None:
        try:
            context.load_cert_chain(settings.cert, settings.key, password=str)
        except (ssl.SSLError, OSError) as error:
            pair = f"--cert {settings.cert} and --key {settings.key}"
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise _FilesError(f"{pair} do not belong together; give the key of that certificate") from None
            raise _FilesError(f"{pair} are no certificate and unencrypted key in PEM; check both files") from None
    return context


def _distrusted(error: ssl.SSLCertVerificationError, host: str, settings: EtcdSettings) -> Cause:
    """Return the cause where the client refuses the server's certificate."""
    match distrust_of(error):
        case Distrust.EXPIRED:
            text = "the server's certificate has expired; renew it (kubeadm: `kubeadm certs renew etcd-server`)"
        case Distrust.NOT_YET_VALID:
            text = "the server's certificate is not valid yet; compare the clocks of both machines"
        case Distrust.OTHER_HOST:
            text = f"the server's certificate is not for {host}; write a name or an address that it names"
        case Distrust.UNKNOWN_AUTHORITY if settings.cacert is None:
            text = (
                "this system trusts no authority that signed the server's certificate; give etcd's with --cacert, "
                f"{_KUBEADM}"
            )
        case _:
            text = (
                f"no authority in --cacert {settings.cacert} signed the server's certificate; give etcd's, {_KUBEADM}"
            )
    return Cause(text, lasts=True)


def _refused(error: ssl.SSLError, settings: EtcdSettings) -> Cause:
    """Return the cause where the server refuses the client's certificate, or its lack."""
    if settings.cert is None:
        text = (
            "the server requires a client certificate; give --cert and --key, on a kubeadm node "
            "/etc/kubernetes/pki/apiserver-etcd-client.crt and .key"
        )
    elif "EXPIRED" in (error.reason or ""):
        text = f"the server refuses the client certificate of --cert {settings.cert}: it has expired; renew it"
    else:
        text = (
            f"the server refuses the client certificate of --cert {settings.cert}; give one that etcd's client CA "
            "signed, on a kubeadm node /etc/kubernetes/pki/apiserver-etcd-client.crt"
        )
    return Cause(text, lasts=True)


def _of_error(error: Exception, settings: EtcdSettings, host: str, port: int) -> Cause | None:
    """Return the cause that an error of `_ask` shows; None where the server broke the connection, or speaks no TLS."""
    match error:
        case _FilesError():
            return Cause(str(error), lasts=True)
        case ssl.SSLCertVerificationError():
            return _distrusted(error, host, settings)
        case ssl.SSLError():
            return _refused(error, settings) if is_alert(error) else None
        case _:
            return _unconnected(error, host, port)


def _unconnected(error: Exception, host: str, port: int) -> Cause | None:
    """Return the cause where no connection came about; None for one that broke."""
    match error:
        case socket.gaierror():
            text = f"the name {host} can't be resolved; check --endpoints"
        case ConnectionRefusedError():
            text = f"no process listens on port {port} of {host}; does etcd run there? Check --endpoints"
        case TimeoutError():
            text = (
                f"no connection to port {port} of {host} within {_SECONDS:g} s; is the address right, and does a "
                "firewall let it through?"
            )
        case ConnectionError():
            return None
        case _:
            because = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            text = f"{host} can't be reached: {because}; check --endpoints"
    return Cause(text, lasts=isinstance(error, socket.gaierror | ConnectionRefusedError))
