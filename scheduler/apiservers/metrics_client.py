"""Scrapes /metrics of kube-apiservers: the only module that uses HTTP.

Each address has its own connection, with time-outs, without redirects, and without a proxy of the environment, so
that the response is that replica's. The body is streamed, and only the lines of the configuration's metrics are kept.
An error of one address is the `fault` of its scrape. The token is sent and never shown.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.library_errors import chain_of, is_alert, kind_of, why_distrusted
from kube_rewrap.config.settings.schema import ApiserverSettings
from kube_rewrap.scheduler.apiservers.convergence import Scrape
from kube_rewrap.scheduler.apiservers.metrics_parser import PREFIXES, ReportError, parse_reports

_MAX_BYTES = 32 * 2**20
"""Of one response; a large cluster's metrics are some five megabytes."""

_MAX_LINE = 64 * 2**10
_MAX_LINES = 1_000
_MAX_TOKEN = 64 * 2**10
_AT_ONCE = 16
_KUBEADM_CA = "/etc/kubernetes/pki/ca.crt on a kubeadm node"
_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLError, "it speaks no TLS; is this the address of a kube-apiserver? Check --apiserver"),
    (ConnectionRefusedError, "no process listens there; does the kube-apiserver run? Check --apiserver"),
    (ConnectionError, "the connection broke; does it require a client certificate? See --apiserver-cert"),
    (socket.gaierror, "its name can't be resolved; check --apiserver"),
)
_REFUSED = {
    401: "the token or the client certificate, or their lack; see --apiserver-token-file and --apiserver-cert",
    403: "what we may read: grant `get` on the non-resource URL /metrics",
}


class _UnusableError(Exception):
    """The response can't be used; the message says why."""


async def scrape_all(settings: ApiserverSettings) -> tuple[Scrape, ...]:
    """Scrape every address, at most `_AT_ONCE` at a time; returns the scrapes in the order of the addresses.

    Raises SettingsError for a token, CA or client certificate that can't be read.
    """
    if not settings.addresses:
        return ()
    context, headers = await asyncio.to_thread(_credentials, settings)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def scrape(address: str) -> Scrape:
        async with gate:
            return await _scrape(address, settings.timeout, context, headers)

    return tuple(await asyncio.gather(*map(scrape, settings.addresses)))


async def _scrape(address: str, seconds: float, context: ssl.SSLContext, headers: dict[str, str]) -> Scrape:
    try:
        # httpx bounds each read; this bounds their sum, against a server that sends slowly.
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False, timeout=seconds) as client,
            client.stream("GET", _url(address), headers=headers) as response,
        ):
            _require_usable(response)
            return Scrape(address, parse_reports([line async for line in _lines(response)]))
    except (_UnusableError, ReportError) as error:
        return Scrape(address, fault=str(error))
    except TimeoutError:
        return Scrape(address, fault=f"no whole answer within {seconds:g} s", reached=False)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Scrape(address, fault=f"can't be reached: {_why(error)}", reached=False)


def _why(error: BaseException) -> str:
    """Return why there is no connection: a sentence where the cause is known, else the classes of the error."""
    return next((said for one in chain_of(error) if (said := _sentence(one))), "") or kind_of(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return why_distrusted(error, "--apiserver", f"--apiserver-cacert, {_KUBEADM_CA}")
    if is_alert(error):
        return "it refuses the client certificate, or requires one; see --apiserver-cert and --apiserver-key"
    return next((sentence for kind, sentence in _BY_CLASS if isinstance(error, kind)), "")


def _url(address: str) -> str:
    return address if urlsplit(address).path.strip("/") else f"{address.rstrip('/')}/metrics"


def _require_usable(response: httpx.Response) -> None:
    status = response.status_code
    if status in _REFUSED:
        raise _UnusableError(f"it answered {status}: it does not accept {_REFUSED[status]}")
    # Servers in Go answer so to HTTP where they expect TLS.
    if status == httpx.codes.BAD_REQUEST and response.url.scheme == "http":
        raise _UnusableError("it answered 400: it may speak TLS; write https:// in --apiserver")
    if status != httpx.codes.OK:
        raise _UnusableError(f"it answered {status}, and no metrics")
    if response.headers.get("content-encoding", "identity") != "identity":
        # The request does not accept compression: a small compressed body may expand to a huge one.
        raise _UnusableError("it answered with compressed metrics that were not asked for")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of the configuration's metrics. Raises _UnusableError for a body that is too large."""
    rest, size, count = b"", 0, 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _MAX_BYTES:
            raise _UnusableError(f"its metrics are larger than {_MAX_BYTES // 2**20} MiB")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(_is_kept, lines):
            count += 1
            yield line
        if len(rest) > _MAX_LINE or count > _MAX_LINES:
            raise _UnusableError("its answer is not metrics in Prometheus' text format")
    if _is_kept(rest):
        yield rest


def _is_kept(line: bytes) -> bool:
    return line.startswith(PREFIXES)


def _credentials(settings: ApiserverSettings) -> tuple[ssl.SSLContext, dict[str, str]]:
    """Read the files at each probe: an operator may replace them while the service runs."""
    headers = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"}
    if settings.token_file is not None:
        headers["Authorization"] = f"Bearer {_token(settings.token_file)}"
    return _context(settings), headers


def _context(settings: ApiserverSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.cacert)
    except OSError as error:  # ssl.SSLError is one
        raise _refused("cacert", settings.cacert, error) from None
    try:
        if settings.cert is not None:
            # Never asks on the terminal for the password of an encrypted key.
            context.load_cert_chain(settings.cert, settings.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise _refused("cert", settings.cert, error) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _token(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_TOKEN + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused("token_file", path, error) from None
    if not text or len(text) > _MAX_TOKEN or not text.isprintable() or " " in text:
        raise _refused("token_file", path, ValueError("it holds no token"))
    return text


def _refused(name: str, path: str | None, error: Exception) -> SettingsError:
    """Return an error that names the file and repeats nothing of its content."""
    if isinstance(error, ssl.SSLError):
        reason = "it does not hold what it should"
    elif isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    else:
        reason = str(error) if not isinstance(error, UnicodeDecodeError) else "it holds no token"
    fault = Fault(f"apiservers.{name}", f"{path} can't be used: {reason}", "give a readable PEM file, or token")
    return SettingsError("settings", (fault,))
