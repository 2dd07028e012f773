"""Tests whether an etcd endpoint answers a client that has no certificate and no password.

The probe asks the member alone for a count of one key: it reads no value and needs no quorum. gRPC reports a refused
certificate and a dead server by the same code; a second call with our certificate, right after, distinguishes them.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

import grpc
import grpc.aio

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.channel import open_endpoint
from kube_rewrap.worker.etcd.grants import Access, Exposure

_rpc: Any = compat.load()[0]

_SECONDS = 3.0
_PAGE_BYTES = 2**20
_Code = grpc.StatusCode
_Answer = tuple[grpc.StatusCode, str]
"""The code and the details of a gRPC answer."""

_NAMELESS = "user name is empty"
"""etcd's error for a read without a token with authentication on, an INVALID_ARGUMENT (api/v3rpc/rpctypes/error.go)."""

_SILENT = {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.CANCELLED, _Code.UNKNOWN, _Code.INTERNAL}
"""Codes that the gRPC client may return without any answer of a server."""


async def probe(settings: EtcdSettings) -> tuple[Exposure, ...]:
    """Return how each endpoint answers an anonymous client, in the order of the settings; takes a few seconds at most.

    Raises SettingsError for an endpoint or a file that can't be used.
    """
    return tuple(await asyncio.gather(*(_probe(url, settings) for url in settings.endpoints)))


async def _probe(url: str, settings: EtcdSettings) -> Exposure:
    # Without a scheme, the TLS files decide (channel.py). The anonymous client has none, so the scheme is set here.
    full = url if "://" in url else f"{'https' if settings.cacert or settings.cert else 'http'}://{url}"
    parts = urlsplit(full)
    anonymous = await _ask(full, replace(settings, cert=None, key=None))
    authenticated = await _ask(full, settings) if anonymous[0] in _SILENT else anonymous
    access, because = judge_answers(anonymous, authenticated)
    if access is Access.ANSWERS and parts.scheme.startswith("unix"):
        access, because = Access.UNCLEAR, "the permissions of the socket's file decide, which the probe does not check"
    return Exposure(url, parts.scheme in {"https", "unixs"}, _is_local(parts), access, because)


def judge_answers(anonymous: _Answer, authenticated: _Answer) -> tuple[Access, str]:
    """Judge the code and details of the call without, and with, our certificate. The text is "" unless UNCLEAR."""
    code, words = anonymous
    if code is _Code.OK:
        return Access.ANSWERS, ""
    if code in {_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED} or _NAMELESS in words:
        return Access.ASKS_PASSWORD, ""
    if code is _Code.UNAVAILABLE and authenticated[0] not in _SILENT:
        return Access.REFUSES, ""
    if code is _Code.UNAVAILABLE:
        return Access.UNCLEAR, "the endpoint does not answer with our certificate either"
    return Access.UNCLEAR, f"the call ended with {code.name}"


async def _ask(url: str, settings: EtcdSettings) -> _Answer:
    """Send one read without a user name; returns the code and the details of the answer."""
    endpoint = open_endpoint(url, settings, _PAGE_BYTES)
    request = _rpc.RangeRequest(key=b"/", count_only=True, serializable=True)
    try:
        await endpoint.kv.Range(request, timeout=_SECONDS)
    except grpc.aio.AioRpcError as failure:
        return failure.code(), failure.details() or ""
    finally:
        await endpoint.channel.close()
    return _Code.OK, ""


def _is_local(parts: SplitResult) -> bool:
    if parts.scheme.startswith("unix") or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False  # a name: not resolved, so it counts as not local
