"""One `grpc.aio` channel per endpoint: its address, TLS and keepalive, and the stubs on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import grpc
import grpc.aio

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.endpoints import scheme_of
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd import compat

_rpc: Any
_stubs: Any
_rpc, _stubs = compat.load()

_LEAST_RECEIVED = 8 * 2**20
"""Bytes. gRPC's default limit, 4 MiB, is less than three of the largest objects that etcd accepts."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # etcd's servers close connections that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # gRPC's default of two minutes outlasts our own retries
    ("grpc.enable_http_proxy", 0),  # a proxy would see passwords and objects
    ("grpc.enable_retries", 0),  # a retry inside gRPC could send a write twice
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of the cluster: its URL, its channel and the stubs on that channel."""

    url: str
    channel: grpc.aio.Channel = field(repr=False)
    kv: Any = field(repr=False)
    txn: Any = field(repr=False)
    """`kv.Txn` for requests that are serialized already."""
    lease: Any = field(repr=False)
    maintenance: Any = field(repr=False)
    auth: Any = field(repr=False)
    watch: Any = field(repr=False)


def open_endpoint(url: str, settings: EtcdSettings, page_bytes: int) -> Endpoint:
    """Make the channel of an endpoint, without connecting.

    The channel refuses answers of more than twice `page_bytes`, 8 MiB at least (TooLargeError), which bounds the memory
    of a page.

    Raises SettingsError for an invalid URL, or an unreadable file.
    """
    target, secure = _target(url, settings)
    options = (*_OPTIONS, ("grpc.max_receive_message_length", max(_LEAST_RECEIVED, 2 * page_bytes)))
    channel = (
        grpc.aio.secure_channel(target, _credentials(settings), options=options)
        if secure
        else grpc.aio.insecure_channel(target, options=options)
    )
    return Endpoint(
        url,
        channel,
        _stubs.KVStub(channel),
        channel.unary_unary("/etcdserverpb.KV/Txn", response_deserializer=_rpc.TxnResponse.FromString),
        _stubs.LeaseStub(channel),
        _stubs.MaintenanceStub(channel),
        _stubs.AuthStub(channel),
        _stubs.WatchStub(channel),
    )


def _target(url: str, settings: EtcdSettings) -> tuple[str, bool]:
    """Return gRPC's name of the endpoint, and whether the channel uses TLS."""
    try:
        parts = urlsplit(url if "://" in url else f"{scheme_of(url, settings)}://{url}")
    except ValueError:  # for brackets without an IPv6 address in them
        raise _no_endpoint(url) from None
    if parts.scheme in {"unix", "unixs"}:
        return f"unix:{parts.netloc}{parts.path}", parts.scheme == "unixs"
    if parts.scheme not in {"http", "https"} or not parts.hostname or _port(parts) is None:
        raise _no_endpoint(url)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{_port(parts)}", parts.scheme == "https"


def _no_endpoint(url: str) -> SettingsError:
    return SettingsError(
        "settings", (Fault("etcd.endpoints", f"{url!r} is not an endpoint", "write https://HOST:2379"),)
    )


def _port(parts: SplitResult) -> int | None:
    """Return the port of a URL, 2379 if it has none; None for an invalid one."""
    try:
        return parts.port or 2379
    except ValueError:
        return None


def _credentials(settings: EtcdSettings) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("etcd.cacert", settings.cacert),
        private_key=_pem("etcd.key", settings.key),
        certificate_chain=_pem("etcd.cert", settings.cert),
    )


def _pem(setting: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        fault = Fault(setting, f"{path} can't be read: {error.strerror}", "check the path and its permissions")
        raise SettingsError("settings", (fault,)) from None
