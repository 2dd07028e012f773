"""A KMS plugin, v1 and v2 on one Unix socket: it behaves as upstream's mock, or as a vendor's, and fails when told to.

In this process: `with start_plugin(path) as plugin`, then change `plugin.behaviour`. As a process of its own:
`python -m tests.servers.kms_plugin --socket PATH --control FILE`, where FILE holds fields of `Behaviour` as JSON; it is
read again at every call, so write it to another file and rename. Its KEKs are made for tests.
"""

import argparse
import base64
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kube_rewrap.worker.kms.messages import V1BETA1, V2, Method, message, path_of

ANNOTATION = "local-kek.kms.kubernetes.io"
AZURE_ANNOTATION = "date.azure.akv.io"
ARN = "arn:aws:kms:eu-central-1:111122223333:key/made-for-tests"
GOOGLE_KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/made-for-tests"

_METHODS: tuple[tuple[str, Method], ...] = (
    (V1BETA1, "Version"),
    (V1BETA1, "Decrypt"),
    (V1BETA1, "Encrypt"),
    (V2, "Status"),
    (V2, "Decrypt"),
    (V2, "Encrypt"),
)
_THREADS = 16
_STOP_SECONDS = 2.0


@dataclass(slots=True)
class Behaviour:
    """What the plugin does now. Methods are named `v2.Decrypt`, `v1beta1.Version`, …; `*` is all of them."""

    kind: str = "mock"
    """`mock`, `aws`, `google`, `azure` or `vault`."""
    wrapping: str = "base64"
    """`base64`, as upstream's mock; or `aesgcm`, under a KEK for each key id, which opens under no other one."""
    key_id: str = "kek-1"
    """Of mock and azure."""
    kek_version: int = 1
    """Of aws, google and vault: the KMS turns it."""
    old_key_ids: tuple[str, ...] = ()
    """Of mock: other key ids whose KEKs it still has."""
    fail: dict[str, str] = field(default_factory=dict)
    """Name of a gRPC code, by method."""
    fail_sources: dict[str, str] = field(default_factory=dict)
    """Name of a gRPC code, by the hexadecimal SHA-256 of a wrapped key that is asked for."""
    fail_text: str = "made to fail"
    hang: tuple[str, ...] = ()
    """Methods that never answer."""
    delay: dict[str, float] = field(default_factory=dict)
    """Seconds before a method answers."""
    wrong_bytes: int = 0
    """So many answers to Decrypt have other bytes; -1: all."""
    wrong_fresh: bool = False
    """Decrypt gives other bytes for whatever this process wrapped."""
    calls_per_second: float = 0.0
    """Throttled above it (RESOURCE_EXHAUSTED; aws: UNKNOWN). 0: no bound."""
    checks_key_id: bool = False
    """Decrypt under another key id fails (FAILED_PRECONDITION), as azure always does."""
    status_key_id: str | None = None
    encrypt_key_id: str | None = None
    healthz: str = "ok"
    v1_version: str = "v1beta1"
    v2_version: str = "v2"
    annotations: dict[str, str] | None = None
    """In place of the kind's own; Latin-1."""
    raw: dict[str, str] = field(default_factory=dict)
    """The whole answer's bytes in hexadecimal, by method."""

    @property
    def current(self) -> str:
        """The KEK in use, by a name that tells versions apart."""
        match self.kind:
            case "aws":
                return f"{ARN}#{self.kek_version}"
            case "google":
                return f"{GOOGLE_KEY}/cryptoKeyVersions/{self.kek_version}"
            case "vault":
                return str(self.kek_version)
        return self.key_id


class FailedError(Exception):
    """The call fails with this code."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class KmsPlugin:
    """Counts what it is asked in `calls`, by method, and keeps every data key and seed that it saw in `secrets`."""

    def __init__(self, socket: str, behaviour: Behaviour | None = None, control: Path | None = None) -> None:
        """`socket`: a path, or `@name`."""
        self.socket = socket
        self.behaviour = behaviour or Behaviour()
        self.calls: Counter[str] = Counter()
        self.uids: list[str] = []
        self.secrets: set[bytes] = set()
        self._control = control
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._fresh: set[bytes] = set()
        self._times: list[float] = []
        self._said = GOOGLE_KEY  # google: the id of the call before
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        """For the EncryptionConfiguration."""
        return f"unix:///{self.socket.removeprefix('/')}"

    def start(self) -> None:
        self._stopping.clear()
        # A default port reuse would let two plugins share an abstract name.
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), options=[("grpc.so_reuseport", 0)])
        for package in (V1BETA1, V2):
            handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
                method: grpc.unary_unary_rpc_method_handler(self._handler(package, method))
                for owner, method in _METHODS
                if owner == package
            }
            service = path_of(package, "Decrypt").split("/")[1]
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        name = self.socket
        self._server.add_insecure_port(f"unix-abstract:{name[1:]}" if name.startswith("@") else f"unix:{name}")
        self._server.start()

    def stop(self) -> None:
        """Its socket is gone when this returns; calls that hang have ended."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop(0).wait(_STOP_SECONDS)
            self._server = None
        if not self.socket.startswith("@"):
            Path(self.socket).unlink(missing_ok=True)

    def rotate(self, key_id: str = "") -> None:
        """Turn the KEK; the old one still unwraps, but with azure. `key_id`: the new one, of mock and azure."""
        one = self.behaviour
        if one.kind in {"mock", "azure"}:
            self.behaviour = replace(one, key_id=key_id, old_key_ids=(*one.old_key_ids, one.key_id))
        else:
            self.behaviour = replace(one, kek_version=one.kek_version + 1)

    # ----------------------------------------------------------------------------------------------------------- calls

    def _handler(self, package: str, method: Method) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        name = f"{package}.{method}"

        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            request = message(package, f"{method}Request").FromString(body)
            with self._lock:
                self._read_control()
                self.calls[name] += 1
                one = self.behaviour
            try:
                self._before(one, name, request)
                if name in one.raw:
                    return bytes.fromhex(one.raw[name])
                answer: bytes = getattr(self, f"_{package}_{method.lower()}")(one, request).SerializeToString()
            except FailedError as error:
                context.abort(error.code, str(error))
            return answer

        return handle

    def _read_control(self) -> None:
        if self._control is not None and self._control.exists():
            said = json.loads(self._control.read_text(encoding="utf-8"))
            known = {one.name for one in fields(Behaviour)}
            if not said.keys() <= known:
                raise ValueError(f"no such switches: {sorted(said.keys() - known)}")
            self.behaviour = replace(self.behaviour, **said)

    def _before(self, one: Behaviour, name: str, request: Any) -> None:
        """Hangs or fails as told."""
        if hasattr(request, "uid"):
            self.uids.append(request.uid)
        if not {name, "*"}.isdisjoint(one.hang):
            self._stopping.wait()
        if name in one.delay:
            self._stopping.wait(one.delay[name])
        code = one.fail.get(name, one.fail.get("*"))
        wrapped = getattr(request, "ciphertext", b"") or getattr(request, "cipher", b"")
        if wrapped:
            code = one.fail_sources.get(hashlib.sha256(wrapped).hexdigest(), code)
        # aws: its Status answers `err` instead.
        if code and not (one.kind == "aws" and name == "v2.Status"):
            raise FailedError(grpc.StatusCode.UNKNOWN if one.kind == "aws" else grpc.StatusCode[code], one.fail_text)
        self._throttle(one)
        if hasattr(request, "uid") and not request.uid:
            raise FailedError(grpc.StatusCode.INVALID_ARGUMENT, "uid is empty")

    def _throttle(self, one: Behaviour) -> None:
        if not one.calls_per_second:
            return
        now = time.monotonic()
        with self._lock:
            self._times = [at for at in self._times if at > now - 1]
            if len(self._times) >= one.calls_per_second:
                code = grpc.StatusCode.UNKNOWN if one.kind == "aws" else grpc.StatusCode.RESOURCE_EXHAUSTED
                raise FailedError(code, "rate exceeded")
            self._times.append(now)

    def _v1beta1_version(self, one: Behaviour, _request: Any) -> Any:
        return message(V1BETA1, "VersionResponse")(version=one.v1_version, runtime_name="kube-rewrap-test")

    def _v1beta1_decrypt(self, one: Behaviour, request: Any) -> Any:
        return message(V1BETA1, "DecryptResponse")(plain=self._unwrap(one, request.cipher))

    def _v1beta1_encrypt(self, one: Behaviour, request: Any) -> Any:
        return message(V1BETA1, "EncryptResponse")(cipher=self._wrap(one, request.plain))

    def _v2_status(self, one: Behaviour, _request: Any) -> Any:
        failing = one.kind == "aws" and bool({"v2.Status", "*"} & one.fail.keys())
        key_id = one.status_key_id if one.status_key_id is not None else self._key_id(one, "Status")
        version = "v2beta1" if one.kind == "aws" and one.v2_version == "v2" else one.v2_version
        return message(V2, "StatusResponse")(version=version, healthz="err" if failing else one.healthz, key_id=key_id)

    def _v2_decrypt(self, one: Behaviour, request: Any) -> Any:
        if (one.checks_key_id or one.kind == "azure") and request.key_id != self._key_id(one, "Decrypt"):
            raise FailedError(grpc.StatusCode.FAILED_PRECONDITION, "another key id")
        if one.kind == "azure" and AZURE_ANNOTATION not in request.annotations:
            raise FailedError(grpc.StatusCode.INVALID_ARGUMENT, "an annotation is missing")
        return message(V2, "DecryptResponse")(plaintext=self._unwrap(one, request.ciphertext))

    def _v2_encrypt(self, one: Behaviour, request: Any) -> Any:
        wrapped = self._wrap(one, request.plaintext)
        # As vault's plugin does, the key id is read after the encryption.
        key_id = one.encrypt_key_id if one.encrypt_key_id is not None else self._key_id(self.behaviour, "Encrypt")
        return message(V2, "EncryptResponse")(ciphertext=wrapped, key_id=key_id, annotations=_annotations(one))

    def _key_id(self, one: Behaviour, method: Method) -> str:
        if one.kind == "aws":
            return ARN
        if one.kind == "google" and method == "Status":
            said, self._said = self._said, one.current
            return said
        if one.kind == "google" and method == "Encrypt":
            self._said = one.current
        return one.current

    # -------------------------------------------------------------------------------------------------------- wrapping

    def _wrap(self, one: Behaviour, secret: bytes) -> bytes:
        if one.wrapping == "base64":
            wrapped = base64.b64encode(secret)
        else:
            nonce = os.urandom(12)
            wrapped = nonce + AESGCM(_kek(one.current)).encrypt(nonce, secret, None)
        wrapped = _PREFIX.get(one.kind, "").format(one.kek_version).encode() + wrapped
        if one.kind == "azure":
            # As long as RSA under a key of 2,048 bits, in base64 without padding.
            wrapped = len(wrapped).to_bytes(2, "big") + wrapped.ljust(340, b"=")
        with self._lock:
            self._fresh.add(wrapped)
            self.secrets.add(secret)
        return wrapped

    def _unwrap(self, one: Behaviour, wrapped: bytes) -> bytes:
        secret = self._opened(one, wrapped)
        with self._lock:
            self.secrets.add(secret)
            wrong = self.behaviour.wrong_bytes
            if wrong > 0:
                self.behaviour.wrong_bytes -= 1
            if wrong or (one.wrong_fresh and wrapped in self._fresh):
                return bytes(byte ^ 0xFF for byte in secret)
        return secret

    def _opened(self, one: Behaviour, wrapped: bytes) -> bytes:
        """The KEK is found by trial, as no kind says in its source which one it is."""
        body = wrapped
        if one.kind == "aws":
            body = wrapped.removeprefix(b"1")
        elif one.kind == "vault":
            body = wrapped.split(b":", 2)[-1]
        elif one.kind == "azure":
            body = wrapped[2 : 2 + int.from_bytes(wrapped[:2], "big")]
        if one.wrapping == "base64":
            try:
                return base64.b64decode(body, validate=True)
            except ValueError:
                raise FailedError(grpc.StatusCode.UNKNOWN, "not base64") from None
        for label in _labels(one):
            try:
                return AESGCM(_kek(label)).decrypt(body[:12], body[12:], None)
            except (InvalidTag, ValueError):
                continue
        raise FailedError(grpc.StatusCode.UNKNOWN, "no KEK unwraps this")


_PREFIX = {"aws": "1", "vault": "vault:v{}:"}


def _labels(one: Behaviour) -> list[str]:
    if one.kind == "azure":
        return [one.current]
    if one.kind == "mock":
        return [one.current, *one.old_key_ids]
    return [replace(one, kek_version=number).current for number in range(one.kek_version, 0, -1)]


def _annotations(one: Behaviour) -> dict[str, bytes]:
    if one.annotations is not None:
        return {name: value.encode("latin-1") for name, value in one.annotations.items()}
    match one.kind:
        case "mock":
            return {ANNOTATION: b"encrypted-local-kek"}
        case "azure":
            return {AZURE_ANNOTATION: b"2026-01-01", "version.azure.akv.io": b"1", "algorithm.azure.akv.io": b"RSA15"}
    return {}


def _kek(label: str) -> bytes:
    """A key-encryption key for tests, the same in every process."""
    return hashlib.sha256(b"kube-rewrap, a KEK made for tests: " + label.encode()).digest()


def version_at_aws(wrapped: bytes, newest: int = 2) -> int:
    """The version of the KEK that wrapped a key, which AWS alone knows. The plugin's `wrapping` was `aesgcm`."""
    body = wrapped.removeprefix(b"1")
    for version in range(1, newest + 1):
        label = Behaviour(kind="aws", kek_version=version).current
        with suppress(InvalidTag):
            AESGCM(_kek(label)).decrypt(body[:12], body[12:], None)
            return version
    raise AssertionError("no KEK unwraps this")


@contextmanager
def start_plugin(socket: str, behaviour: Behaviour | None = None) -> Iterator[KmsPlugin]:
    """Runs it in this process."""
    plugin = KmsPlugin(socket, behaviour)
    plugin.start()
    try:
        yield plugin
    finally:
        plugin.stop()


def main() -> None:
    """Runs until it is stopped by a signal."""
    parser = argparse.ArgumentParser(description="A KMS plugin for tests.")
    parser.add_argument("--socket", required=True, help="a path, or @name")
    parser.add_argument("--control", type=Path, help="a file of switches, read at every call")
    parser.add_argument("--kind", default="mock", choices=("mock", "aws", "google", "azure", "vault"))
    parser.add_argument("--wrapping", default="base64", choices=("base64", "aesgcm"))
    parser.add_argument("--key-id", default="kek-1")
    given = parser.parse_args()
    one = Behaviour(kind=given.kind, wrapping=given.wrapping, key_id=given.key_id)
    plugin = KmsPlugin(given.socket, one, given.control)
    plugin.start()
    print("ready", flush=True)  # noqa: T201 - for the process that started it
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        plugin.stop()


if __name__ == "__main__":
    main()
