"""Stand-ins for kube-apiservers: each polls its configuration file, shows what it runs, and reads and writes etcd.

They follow upstream's rules and share no code with what is tested: a value is read by the keys of the file that this
one has loaded, and written with the first of them. What one of them can't read, now or in what a watch may still show,
is noted: it would have been an outage.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import yaml

from tests.integration.apiserver import IDENTITY, AnyKey, Key, manifest
from tests.servers.gateway import Gateway, GatewayError, KeyValue
from tests.servers.kms_values import KmsKey, kms_key, named_key_id

LEASES = "/registry/leases/kube-system/"
_METRIC = "apiserver_encryption_config_controller_last_config_info"
_RELOADED = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
_NAMED = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
_USED = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds"
_LEASE_SECONDS = 3600


@dataclass(slots=True)
class Registry:
    """What all stand-ins together did and saw. `objects`: the plaintexts that etcd acknowledged, by key."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    objects: dict[str, bytes] = field(default_factory=dict)
    encryptions: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Temper:
    """How a stand-in behaves. Times in seconds; `writes` is how many objects it writes in each round."""

    poll: float = 0.2
    lag: float = 0.0
    writes: int = 1
    seed: int = 0


class StandIn:
    """One of them. `file` is its own copy, or the one that it shares with others."""

    def __init__(self, name: str, gateway: Gateway, file: Path, registry: Registry, temper: Temper) -> None:
        self.name = name
        self._gateway = gateway
        self._file = file
        self._registry = registry
        self._temper = temper
        self._dice = random.Random(f"{name}-{temper.seed}")
        self._raw = b""
        self.keys: list[AnyKey] = []
        self._keys_beside: list[AnyKey] = []  # of the entries after the first: only their plugins are asked
        self._named: dict[tuple[str, str], float] = {}
        self._written: dict[tuple[str, str], float] = {}
        self._reloads: dict[str, float] = {}
        self._refuses = threading.Event()
        self._down = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def hash(self) -> str:
        return f"sha256:{hashlib.sha256(self._raw).hexdigest()}"

    def start(self) -> None:
        self._load()
        self._renew()
        self._serving.start()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._server.shutdown()
        self._server.server_close()

    def go_down(self) -> None:
        """As when its process ends: it serves, reads and writes nothing."""
        self._down.set()

    def come_back(self) -> None:
        """As when its process starts: it loads the file first."""
        self._load()
        self._down.clear()

    def refuse_to_reload(self, *, refuses: bool) -> None:
        """As when its copy of the file can't be read: it keeps what it has, and says so."""
        (self._refuses.set if refuses else self._refuses.clear)()

    def use(self, file: Path) -> None:
        """As when its node has another file than the others: from now on, this one."""
        self._file = file

    # Its life.

    def _live(self) -> None:
        seen_at: tuple[bytes, float] = (self._raw, 0.0)
        while not self._stop.wait(self._temper.poll * self._dice.uniform(0.5, 1.5)):
            if self._down.is_set():
                continue
            raw = self._file.read_bytes()
            if raw != seen_at[0]:
                seen_at = (raw, time.monotonic())
            if raw != self._raw and time.monotonic() >= seen_at[1] + self._temper.lag:
                self._reloads["success" if self._load() else "failure"] = time.time()
            self._ask_plugins()
            self._use_etcd()

    def _ask_plugins(self) -> None:
        """As kube-apiserver does once a minute: a KEK that the plugin names is taken at once, with a new seed."""
        for key in (*self.keys, *self._keys_beside):
            if isinstance(key, KmsKey):
                with suppress(grpc.RpcError):
                    named = named_key_id(key.endpoint)
                    if named != key.key_id:
                        key.turn(named)
                    self._named[key.name, key.key_id_hash] = time.time()

    def _load(self) -> bool:
        """Returns whether it runs the file now; else it keeps what it has."""
        if self._refuses.is_set() and self._raw:
            return False
        raw = self._file.read_bytes()
        try:
            first, *others = yaml.safe_load(raw)["resources"]
            self.keys, self._keys_beside = _keys_of(first), [key for entry in others for key in _keys_of(entry)]
        except (yaml.YAMLError, KeyError, TypeError, grpc.RpcError):
            return False  # kube-apiserver takes no file with a plugin that does not answer
        self._raw = raw
        self._ask_plugins()
        return True

    def _use_etcd(self) -> None:
        """Read everything, something of the past, and write something."""
        try:
            for one in self._gateway.read("/registry/secrets/"):
                self._open(one, "")
            self._read_the_past()
            for _ in range(self._temper.writes):
                self._write()
        except (GatewayError, OSError, TimeoutError):
            return

    def _open(self, one: KeyValue, when: str) -> bytes | None:
        for key in self.keys:
            plaintext = key.open(one.key, one.value)
            if plaintext is not None and plaintext.startswith(b"{"):
                return plaintext
        with self._registry.lock:
            names = [key.name or key.provider for key in self.keys]
            self._registry.unreadable.append(f"{self.name} with {names} can't read {one.key}{when}: {one.value[:40]!r}")
        return None

    def _read_the_past(self) -> None:
        """Read one object as a watch would still show it: any revision that etcd has not compacted away."""
        now = self._gateway.revision()
        at = self._dice.randint(max(1, now - 300), now)
        name = self._dice.choice(sorted(self._registry.objects))
        request = {"key": base64.b64encode(name.encode()).decode(), "revision": str(at)}
        try:
            found = self._gateway.call("/v3/kv/range", request).get("kvs", [])
        except GatewayError:
            return  # compacted
        for one in found:
            self._open(KeyValue.parse(one), f" at revision {at}")

    def _write(self) -> None:
        """Change one object by compare-and-swap, as kube-apiserver does."""
        name = self._dice.choice(sorted(self._registry.objects))
        _, _, _, namespace, short = name.split("/")
        plaintext = manifest("Secret", namespace, short, f"{self.name}-{self._dice.random()}")
        key = self.keys[0]
        with self._registry.lock:
            # Under the lock, so that what etcd acknowledged and what is noted are one.
            before = self._gateway.get(name)
            if before is None:
                return
            self._registry.encryptions[key.fingerprint] += 1
            if self._swap(before, key.seal(name, plaintext)):
                self._registry.objects[name] = plaintext
                if isinstance(key, KmsKey):
                    self._written[key.name, key.key_id_hash] = time.time()

    def _swap(self, before: KeyValue, value: bytes) -> bool:
        name = base64.b64encode(before.key.encode()).decode()
        compare = {"key": name, "target": "MOD", "mod_revision": str(before.mod_revision)}
        put = {"requestPut": {"key": name, "value": base64.b64encode(value).decode()}}
        answer = self._gateway.call("/v3/kv/txn", {"compare": [compare], "success": [put]})
        return bool(answer.get("succeeded"))

    def _renew(self) -> None:
        """Its identity lease, in JSON, which is one of the forms in which objects are stored."""
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "namespace": "kube-system",
                "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": self.name},
            },
            "spec": {
                "holderIdentity": f"{self.name}_1",
                "leaseDurationSeconds": _LEASE_SECONDS,
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        self._gateway.put(f"{LEASES}{self.name}", json.dumps(lease).encode())

    # What it shows.

    def metrics(self) -> str:
        identity = f"sha256:{hashlib.sha256(self.name.encode()).hexdigest()}"
        labels = f'apiserver_id_hash="{identity}"'
        lines = [
            f"# TYPE {_METRIC} gauge",
            f'{_METRIC}{{{labels},hash="{self.hash}"}} 1',
            f"# TYPE {_RELOADED} gauge",
            *(f'{_RELOADED}{{{labels},status="{status}"}} {at}' for status, at in list(self._reloads.items())),
            *(f"{_NAMED}{{{labels},{_of_kek(kek)}}} {at}" for kek, at in list(self._named.items())),
            *(
                f'{_USED}{{{labels},{_of_kek(kek)},transformation_type="to_storage"}} {at}'
                for kek, at in list(self._written.items())
            ),
        ]
        return "\n".join(lines) + "\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        standin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if standin._down.is_set():
                    self.close_connection = True
                    return
                body = standin.metrics().encode()
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        return Handler


def _of_kek(kek: tuple[str, str]) -> str:
    return f'key_id_hash="{kek[1]}",provider_name="{kek[0]}"'


def _keys_of(entry: Any) -> list[AnyKey]:
    """The keys of an entry of the file, in the order in which they are tried. Raises grpc.RpcError."""
    found: list[AnyKey] = []
    for block in entry["providers"]:
        ((provider, content),) = block.items()
        if provider == "identity":
            found.append(IDENTITY)
        elif provider == "kms":
            # A reload keeps nothing: every KMS provider gets a new seed.
            found.append(kms_key(content))
        else:
            found += [Key(provider, key["name"], base64.b64decode(key["secret"])) for key in content["keys"]]
    return found


def seed(gateway: Gateway, registry: Registry, key: AnyKey, count: int) -> None:
    """Objects as they are stored before a test begins, in an etcd that shows nothing of what was there earlier."""
    for number in range(count):
        name = f"/registry/secrets/team-{number % 5}/s{number:04}"
        registry.objects[name] = manifest("Secret", f"team-{number % 5}", f"s{number:04}", "first")
    gateway.put_all({name: key.seal(name, plaintext) for name, plaintext in registry.objects.items()})
    gateway.compact(gateway.revision())
    registry.encryptions[key.fingerprint] += count


@contextmanager
def standins(gateway: Gateway, file: Path, registry: Registry, tempers: Sequence[Temper]) -> Iterator[list[StandIn]]:
    """Stand-ins at work, all with one file."""
    found = [
        StandIn(f"apiserver-{'abcdefgh'[number] * 26}", gateway, file, registry, temper)
        for number, temper in enumerate(tempers)
    ]
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            one.stop()


@contextmanager
def compacting(gateway: Gateway, every: float) -> Iterator[None]:
    """As kube-apiserver does, only sooner: what there was one round ago is compacted away."""
    stop = threading.Event()

    def compact() -> None:
        seen = gateway.revision()
        while not stop.wait(every):
            # An etcd that was wiped a moment ago was compacted there already.
            with suppress(GatewayError):
                gateway.compact(seen)
            seen = gateway.revision()

    thread = threading.Thread(target=compact, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
