"""Parses Redis' URL for both of its clients: ours (worker/rate/shared.py) and Celery's.

Accepted are `redis://`, `rediss://` (TLS) and, in kombu's syntax, `sentinel://H1:26379;sentinel://H2:26379/0`. User
and password in a sentinel URL are those of Redis itself. Refused are sentinels with a password of their own, Unix
sockets, clusters, and options after a question mark: a URL must not override a setting.

The password is kept in SecretBytes. No error quotes any part of the URL, since any part may be a misplaced password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.endpoints import is_loopback
from kube_rewrap.config.settings.schema import BrokerSettings

T = TypeVar("T")

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_DB = re.compile(r"[0-9]{1,6}")

_HEALTH_SECONDS = 10
"""Time between kombu's checks of an idle connection. With its default of 25 s a worker would notice a lost connection
only after most of a minute."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. None: the system's CAs for `cacert`, no client certificate for the others."""

    cacert: str | None
    cert: str | None
    key: str | None

    def options(self) -> dict[str, str | bool]:
        """Return redis-py's own names, which are also those of Celery's `broker_use_ssl`. The server is verified."""
        files = {"ssl_ca_certs": self.cacert, "ssl_certfile": self.cert, "ssl_keyfile": self.key}
        given = {name: path for name, path in files.items() if path is not None}
        return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **given}


@dataclass(frozen=True, slots=True)
class Broker:
    """The address of Redis, and how to log in. Its repr shows no password."""

    nodes: tuple[tuple[str, int], ...]
    """Hosts and ports: of Redis itself, or of the sentinels."""
    master: str | None
    """Name of the master that the sentinels watch. None: `nodes` is one address, that of Redis."""
    db: int
    user: str | None
    password: SecretBytes | None
    tls: Tls | None
    """For sentinels and Redis alike. None: clear text."""
    timeout: float
    """Seconds to connect or for one answer."""

    @property
    def place(self) -> str:
        """Hosts and ports, for logs, without user and password."""
        nodes = ", ".join(_address(*node) for node in self.nodes)
        return nodes if self.master is None else f"{self.master} of {nodes}"

    @property
    def is_in_clear(self) -> bool:
        """Whether the password would be sent to another machine in clear text."""
        return self.password is not None and self.tls is None and not all(is_loopback(host) for host, _ in self.nodes)

    @property
    def url(self) -> SecretBytes:
        """Celery's `broker_url`, with the password. Made from the parsed parts, so that kombu gets only checked ones.

        kombu forgets user and database when it tries the next sentinel, so each part names them.
        """
        scheme = "sentinel" if self.master is not None else "rediss" if self.tls else "redis"
        login = ""
        if self.password is not None:
            login = f"{quote(self.user or '', safe='')}:{quote(self.password.reveal(), safe='')}@"
        parts = (f"{scheme}://{login}{_address(*node)}/{self.db}" for node in self.nodes)
        return SecretBytes(";".join(parts).encode())

    def use_ssl(self) -> dict[str, str | bool] | None:
        """Return Celery's `broker_use_ssl`; None: clear text."""
        return self.tls.options() if self.tls else None

    def transport_options(self) -> dict[str, object]:
        """Return the part of Celery's `broker_transport_options` that reaches Redis. It holds no secret."""
        timeouts = {"socket_timeout": self.timeout, "socket_connect_timeout": self.timeout}
        options: dict[str, object] = {**timeouts, "health_check_interval": _HEALTH_SECONDS}
        if self.master is not None:
            options["master_name"] = self.master
            # Without these kombu would talk to the sentinels in clear text, and redis-py would retry a dead one for
            # some ten seconds before it tried the next.
            tls = {"ssl": True, **self.tls.options()} if self.tls else {}
            options["sentinel_kwargs"] = {**timeouts, "retry": None, **tls}
        return options


def parse_broker(settings: BrokerSettings) -> Broker:
    """Return the address of Redis. Raises SettingsError, which names the setting and quotes nothing of the URL."""
    text = settings.url.reveal().decode(errors="replace")
    if re.search(r"[\s\x00-\x1f\x7f\ufffd]", text):
        raise _refused("holds white space or control characters", "look for a line break at its end")
    sentinels = text.startswith("sentinel://")
    parts = tuple(_split(part) for part in (text.split(";") if sentinels else [text]))
    if sentinels and any(part.scheme != "sentinel" for part in parts):
        raise _refused("names a sentinel without sentinel://", _SHAPE)
    login = _only((_login(part) for part in parts), "user or password")
    if not settings.sentinel_master and sentinels:
        fault = Fault("broker.sentinel_master", "is empty", "name the master that the sentinels watch")
        raise SettingsError("settings", (fault,))
    return Broker(
        nodes=tuple(_node(part) for part in parts),
        master=settings.sentinel_master if sentinels else None,
        db=_only((_db(part) for part in parts), "database") or 0,
        user=login[0] if login else None,
        password=login[1] if login else None,
        tls=_tls(parts[0].scheme, settings),
        timeout=settings.timeout,
    )


def _split(text: str) -> SplitResult:
    if "?" in text or "#" in text:
        raise _refused(
            "holds ? or #", "leave options out: they have settings of their own; in a password write %3F and %23"
        )
    parts = _parts(text)
    if parts is None or parts.scheme not in _PORTS:
        raise _refused("can't be read", f"{_SHAPE}; in a password write / @ ; as %2F %40 %3B")
    return parts


def _parts(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        # Both are parsed only when they are read: a ValueError then quotes parts of the URL.
        _ = parts.hostname, parts.port
    except ValueError:
        return None
    return parts


def _node(parts: SplitResult) -> tuple[str, int]:
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise _refused("names no host", _SHAPE)
    if parts.port == 0:
        raise _refused("names port 0", _SHAPE)
    return parts.hostname, parts.port or _PORTS[parts.scheme]


def _login(parts: SplitResult) -> tuple[str | None, SecretBytes] | None:
    if "@" not in parts.netloc:
        return None
    if not parts.password:
        raise _refused("has a user but no password", "write USER:PASSWORD@, or :PASSWORD@ where there are no users")
    user, password = _decoded(parts.username or ""), _decoded(parts.password)
    if user is None or password is None:
        raise _refused("has a user or password that is not UTF-8", "write each byte of its UTF-8 form as %XX")
    return user or None, SecretBytes(password.encode())


def _decoded(text: str) -> str | None:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None


def _db(parts: SplitResult) -> int | None:
    path = parts.path.removeprefix("/")
    if path and not _DB.fullmatch(path):
        raise _refused("names no database: the part after the slash must be a number", _SHAPE)
    return int(path) if path else None


def _tls(scheme: str, settings: BrokerSettings) -> Tls | None:
    files = Tls(settings.cacert, settings.cert, settings.key)
    given = any((files.cacert, files.cert, files.key))
    if given and scheme == "redis":
        # An operator who gives certificates expects an encrypted connection.
        raise _refused("has no TLS, but certificate files are given", "write rediss:// or leave the files out")
    return files if given or scheme == "rediss" else None


def _only(found: Iterable[T | None], what: str) -> T | None:
    given = {one for one in found if one is not None}
    if len(given) > 1:
        raise _refused(f"names more than one {what}", f"give every sentinel the same {what}, or only one of them")
    return next(iter(given), None)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_SHAPE = "write redis://USER:PASSWORD@HOST:6379/0, rediss://… for TLS, or sentinel://HOST:26379;sentinel://…/0"


def _refused(message: str, remedy: str) -> SettingsError:
    return SettingsError("settings", (Fault("broker.url", message, remedy),))
