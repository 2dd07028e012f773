"""A client of etcd that shares nothing with ours: HTTP and JSON, through the gateway that every etcd has built in.

Tests prepare a cluster with it and look at what is really stored. It is not fast and not for the code under test.
"""

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, Self
from urllib.parse import urlsplit

ALL_KEYS = "\0"
_TXN_KEYS = 100
_TXN_BYTES = 500_000


class GatewayError(Exception):
    """etcd refused the request; the message holds its words."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of etcd."""

    name: str
    password: str


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as etcd stores it. `lease` is 0 where there is none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @classmethod
    def parse(cls, document: Mapping[str, str]) -> Self:
        return cls(
            key=base64.b64decode(document["key"]).decode(),
            value=base64.b64decode(document.get("value", "")),
            create_revision=int(document["create_revision"]),
            mod_revision=int(document["mod_revision"]),
            version=int(document["version"]),
            lease=int(document.get("lease", 0)),
        )


class Gateway:
    """Talks to one member, as `login` where the cluster asks for one."""

    def __init__(
        self,
        endpoint: str,
        tls: ssl.SSLContext | None = None,
        login: Login | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._url = urlsplit(endpoint)
        self._tls = tls
        self._login = login
        self._timeout = timeout

    def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Writes one key; returns the revision that the write made."""
        request = {"key": _encode(key), "value": _encode(value), "lease": str(lease)}
        return _revision(self.call("/v3/kv/put", request))

    def put_all(self, values: Mapping[str, bytes]) -> None:
        """Writes many keys, about a hundred in each transaction."""
        for chunk in _chunks(values):
            puts = [{"requestPut": {"key": _encode(key), "value": _encode(value)}} for key, value in chunk.items()]
            self.call("/v3/kv/txn", {"success": puts})

    def get(self, key: str) -> KeyValue | None:
        found = self.call("/v3/kv/range", {"key": _encode(key)}).get("kvs", [])
        return KeyValue.parse(found[0]) if found else None

    def read(self, prefix: str) -> list[KeyValue]:
        """All keys under a prefix that is not empty, in order."""
        request = {"key": _encode(prefix), "range_end": _encode(_end_of(prefix))}
        return [KeyValue.parse(found) for found in self.call("/v3/kv/range", request).get("kvs", [])]

    def delete(self, key: str) -> None:
        self.call("/v3/kv/deleterange", {"key": _encode(key)})

    def delete_everything(self) -> None:
        self.call("/v3/kv/deleterange", {"key": _encode(ALL_KEYS), "range_end": _encode(ALL_KEYS)})

    def grant_lease(self, seconds: int) -> int:
        return int(self.call("/v3/lease/grant", {"TTL": str(seconds)})["ID"])

    def compact(self, revision: int) -> None:
        self.call("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def revision(self) -> int:
        """The store's revision now, by a linearizable read."""
        return _revision(self.call("/v3/kv/range", {"key": _encode(ALL_KEYS)}))

    def create_user(self, login: Login, role: str) -> None:
        self.call("/v3/auth/user/add", {"name": login.name, "password": login.password})
        self.call("/v3/auth/user/grant", {"user": login.name, "role": role})

    def create_role(self, role: str, prefixes: tuple[str, ...]) -> None:
        """A role that reads and writes the prefixes; of none, it can do nothing until it is granted more."""
        self.call("/v3/auth/role/add", {"name": role})
        for prefix in prefixes:
            keys = {"key": _encode(prefix), "range_end": _encode(_end_of(prefix))}
            self.call("/v3/auth/role/grant", {"name": role, "perm": {"permType": "READWRITE", **keys}})

    def call(self, path: str, request: Mapping[str, object]) -> dict[str, Any]:
        """Raises GatewayError where etcd refuses."""
        headers = {"Authorization": self._token(self._login)} if self._login else {}
        return self._post(path, request, headers)

    def _token(self, login: Login) -> str:
        # A new one for each call: they expire, and a cluster with users is small and its tests are few.
        request = {"name": login.name, "password": login.password}
        return str(self._post("/v3/auth/authenticate", request, {})["token"])

    def _post(self, path: str, request: Mapping[str, object], headers: Mapping[str, str]) -> dict[str, Any]:
        connection = self._connect()
        try:
            connection.request("POST", path, json.dumps(request), dict(headers))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            # Debian's etcd is built with a newer gateway, which has another name for it.
            raise GatewayError(f"{path}: {answer.get('error') or answer.get('message')}")
        return answer

    def _connect(self) -> HTTPConnection:
        if self._tls:
            return HTTPSConnection(self._url.netloc, timeout=self._timeout, context=self._tls)
        return HTTPConnection(self._url.netloc, timeout=self._timeout)


def _encode(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _end_of(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _chunks(values: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    chunk: dict[str, bytes] = {}
    for key, value in values.items():
        if len(chunk) == _TXN_KEYS or sum(map(len, chunk.values())) + len(value) > _TXN_BYTES:
            yield chunk
            chunk = {}
        chunk[key] = value
    if chunk:
        yield chunk
