"""kube-apiservers beside a service: the keys that they share, and their writes, which nobody may lose or undo."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from kube_rewrap.cli.demo.registry import RESOURCES
from tests.integration.apiserver import Key, configuration, manifest, write_private
from tests.servers.gateway import Gateway, GatewayError, KeyValue

T = TypeVar("T")

EVENTS = "/registry/events/"
_PATHS = ("/registry/secrets/", "/registry/configmaps/", EVENTS, "/registry/example.com/widgets/")
_PROVIDERS = ("aesgcm", "aesgcm", "secretbox", "aescbc")
_FENCE = "/writer/fence"
_LEASE_SECONDS = 24 * 3600
_PAUSE = 0.03
_ANSWER_ATTEMPTS = 600
_ANSWER_PAUSE = 0.1
_LAGGING_WRITES = 60


class Ring:
    """The keys of the cluster, the primary last, and its EncryptionConfiguration.

    A change takes two files, as it should: the new key comes second, and first when the service knows it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._providers = cycle(_PROVIDERS)
        self.keys = [Key.new("aescbc", "k0")]
        self.generations: dict[str, Key] = {}
        """The primary of each file that there was, by the hash by which the service knows it."""
        self.generation = ""

    @property
    def primary(self) -> Key:
        return self.keys[-1]

    def announce(self) -> Key:
        """Makes a key and puts it second."""
        key = Key.new(next(self._providers), f"k{len(self.keys)}")
        self._write([self.primary, key, *reversed(self.keys[:-1])])
        return key

    def promote(self, key: Key) -> None:
        """Puts it first; kube-apiservers write with it from now on."""
        self._write([key, *reversed(self.keys)])
        self.keys.append(key)

    def open(self, etcd_key: str, stored: bytes) -> tuple[Key, bytes] | None:
        """The key that reads a value, and the plaintext."""
        for key in reversed(self.keys):
            plaintext = key.open(etcd_key, stored)
            if plaintext is not None:
                return key, plaintext
        return None

    def _write(self, keys: Sequence[Key]) -> None:
        text = configuration((RESOURCES, keys))
        write_private(self._file.with_suffix(".new"), text).rename(self._file)
        self.generation = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        self.generations[self.generation] = keys[0]


def names(count: int, namespaces: int) -> list[str]:
    """Etcd keys of objects, evenly over resources and namespaces."""
    return [
        f"{_PATHS[number % len(_PATHS)]}team-{number // len(_PATHS) % namespaces:03}/object-{number:05}"
        for number in range(count)
    ]


class Writer:
    """Updates, deletes and creates anew; each write compares the revision that was read, as kube-apiserver's do.

    `model` is what etcd acknowledged or, where its answer was lost, turned out to hold. No two plaintexts are the same:
    `landed` tells the writer's own puts in etcd's history from those of others. It writes under the primary; under the
    one before, too, for a while after each change, and now and then later, as a kube-apiserver that lags would.
    """

    def __init__(self, gateway: Gateway, ring: Ring, seed: int) -> None:
        self._gateway = gateway
        self._ring = ring
        self._dice = random.Random(seed)
        self._lease = gateway.grant_lease(_LEASE_SECONDS)
        self._since_change = (ring.primary, 0)
        self._number = 0
        self._names: list[str] = []
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(1, "writer")
        self._work_done: Future[None] | None = None
        self.model: dict[str, bytes] = {}
        self.landed: set[bytes] = set()
        self.deleted = 0
        self.conflicts = 0
        self.unknown = 0

    def fill(self, wanted: Iterable[str]) -> None:
        """Creates objects; these are the names that it writes to later."""
        for name in wanted:
            self._names.append(name)
            self._write(name, None, self._new_plaintext(name))
        assert len(self.model) == len(self._names)

    def check(self) -> None:
        """Raises what ended it, if something did."""
        if self._work_done is not None and self._work_done.done():
            self._work_done.result()

    def _work(self) -> None:
        while not self._ending.wait(_PAUSE):
            self._write_once(self._dice.choice(self._names))

    def _write_once(self, name: str) -> None:
        before = self._read(name)
        # Seen at once, not only in the end: what it wrote is there, and nothing else.
        assert self._plaintext(before) == self.model.get(name), f"{name} is not what was written last"
        deletes = before is not None and self._dice.random() < 0.15
        self._write(name, before, None if deletes else self._new_plaintext(name))

    def _write(self, name: str, before: KeyValue | None, after: bytes | None) -> None:
        """Puts, or deletes, where nobody wrote meanwhile."""
        try:
            landed = self._swap(name, before.mod_revision if before else 0, after)
        except (OSError, HTTPException, ValueError, GatewayError):
            self.unknown += 1
            landed = self._turns_out_to_be(name, after)
        if not landed:
            self.conflicts += 1
        elif after is None:
            self.deleted += 1
            del self.model[name]
        else:
            self.landed.add(after)
            self.model[name] = after

    def _swap(self, name: str, revision: int, after: bytes | None) -> bool:
        key = _encode(name.encode())
        change: dict[str, object] = {"requestDeleteRange": {"key": key}}
        if after is not None:
            lease = self._lease if name.startswith(EVENTS) else 0
            sealed = self._key().seal(name, after)
            change = {"requestPut": {"key": key, "value": _encode(sealed), "lease": str(lease)}}
        unchanged = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        answer = self._gateway.call("/v3/kv/txn", {"compare": [unchanged], "success": [change]})
        return bool(answer.get("succeeded"))

    def _turns_out_to_be(self, name: str, after: bytes | None) -> bool:
        # What is still on its way lands before this, or never.
        self._until_answered(lambda: self._gateway.put(_FENCE, b""))
        return self._plaintext(self._read(name)) == after

    def _read(self, name: str) -> KeyValue | None:
        return self._until_answered(lambda: self._gateway.get(name))

    def _until_answered(self, ask: Callable[[], T]) -> T:
        for _ in range(_ANSWER_ATTEMPTS):
            try:
                return ask()
            except (OSError, HTTPException, ValueError, GatewayError):
                self._ending.wait(_ANSWER_PAUSE)
        return ask()

    def _plaintext(self, found: KeyValue | None) -> bytes | None:
        if found is None:
            return None
        opened = self._ring.open(found.key, found.value)
        assert opened is not None, f"no key reads {found.key} any more"
        return opened[1]

    def _new_plaintext(self, name: str) -> bytes:
        self._number += 1
        resource, namespace, short = name.rsplit("/", 2)
        return manifest(resource.rpartition("/")[2], namespace, short, f"write {self._number}")

    def _key(self) -> Key:
        primary, writes = self._since_change
        if primary != self._ring.primary:
            primary, writes = self._ring.primary, 0
        self._since_change = primary, writes + 1
        lags = self._dice.random() < (0.5 if writes < _LAGGING_WRITES else 0.003)
        return self._ring.keys[-2] if lags and len(self._ring.keys) > 1 else primary

    def __enter__(self) -> Self:
        self._work_done = self._pool.submit(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._pool.shutdown()
        if kind is None:
            self.check()


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
