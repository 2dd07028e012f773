"""A plugin of KMS v2 as a process, and a bare client of it, to try keyring and writer over a real Unix socket.

The process reads what it is to do from a file before each call, and notes each call in another.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError, WorkerError
from kube_rewrap.worker.wrapped import Plugin, SourceType, WrappedKey

_FIELDS = {
    "StatusRequest": [],
    "StatusResponse": [("version", "s"), ("healthz", "s"), ("key_id", "s")],
    "EncryptRequest": [("plaintext", "b"), ("uid", "s")],
    "EncryptResponse": [("ciphertext", "b"), ("key_id", "s")],
    "DecryptRequest": [("ciphertext", "b"), ("uid", "s"), ("key_id", "s")],
    "DecryptResponse": [("plaintext", "b")],
}
_WORLD = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL"}
_REFUSED = {"UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"}
_METHODS = ("Status", "Encrypt", "Decrypt")


def _messages() -> dict[str, Any]:
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="kms_wire.proto", package="v2", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (one, kind) in enumerate(fields, 1):
            type_ = types.TYPE_BYTES if kind == "b" else types.TYPE_STRING
            message.field.add(name=one, number=number, type=type_, label=types.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v2.{name}")) for name in _FIELDS}


MESSAGES = _messages()


class WireClient:
    """Implements the client's protocol with as little as that takes."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        options = [("grpc.default_authority", "localhost"), ("grpc.max_reconnect_backoff_ms", 500)]
        self._channel = grpc.aio.insecure_channel(plugin.endpoint.replace("unix://", "unix:"), options)

    async def status(self) -> Any:
        answer = await self._call("Status")
        if answer.healthz != "ok" or answer.version not in {"v2", "v2beta1"} or not 1 <= len(answer.key_id) <= 1024:
            raise KmsRefusedError(f"KMS provider {self._plugin.name!a}: Status is not that of a healthy plugin")
        return answer

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        answer = await self._call("Encrypt", plaintext=secret.reveal())
        seed = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
        return WrappedKey(self._plugin, answer.ciphertext, answer.key_id, source_type=seed)

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        answer = await self._call("Decrypt", ciphertext=wrapped.wrapped, key_id=wrapped.key_id)
        return SecretBytes(answer.plaintext)

    async def close(self) -> None:
        await self._channel.close()

    async def _call(self, method: str, **fields: Any) -> Any:
        call = self._channel.unary_unary(
            f"/v2.KeyManagementService/{method}",
            request_serializer=MESSAGES[f"{method}Request"].SerializeToString,
            response_deserializer=MESSAGES[f"{method}Response"].FromString,
        )
        uid = {} if method == "Status" else {"uid": str(uuid.uuid4())}
        request = MESSAGES[f"{method}Request"](**fields, **uid)
        try:
            return await call(request, timeout=self._plugin.timeout_seconds)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        raise self._error(method, code)

    def _error(self, method: str, code: str) -> WorkerError:
        message = f"KMS provider {self._plugin.name!a}: {method} failed with {code}"
        if code in _WORLD:
            return KmsUnavailableError(message)
        return KmsRefusedError(message) if code in _REFUSED else KmsUndecidedError(message)


@dataclass
class PluginProcess:
    """One plugin. `set` takes effect from the next call on."""

    directory: Path
    behaviour: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "kms.sock"

    @property
    def plugin(self) -> Plugin:
        return Plugin("cloud", "v2", f"unix://{self.socket}", timeout_seconds=1.0)

    def set(self, **behaviour: Any) -> None:
        """`key_id`, `named` (Status' own), `healthz`, `version`, `code` and `methods` (which fail so), `bad` (sources
        that fail, in hex), `wrong` (source in hex → how often it unwraps wrongly), `seconds` (before each answer)."""
        self.behaviour |= behaviour
        new = self.directory / "behaviour.new"
        new.write_text(json.dumps(self.behaviour))
        new.replace(self.directory / "behaviour")

    def calls(self) -> Counter[str]:
        return Counter(json.loads(line)[0] for line in self._lines())

    def decrypts_of(self, wrapped: WrappedKey) -> int:
        return sum(json.loads(line) == ["Decrypt", wrapped.wrapped.hex()] for line in self._lines())

    def start(self) -> None:
        self.set()
        (self.directory / "calls").touch()
        self.process = subprocess.Popen([sys.executable, "-m", __name__, str(self.directory)])
        until = time.monotonic() + 30
        while not self.socket.exists():
            assert time.monotonic() < until, "the plugin does not start"
            assert self.process.poll() is None, "the plugin ended"
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        with suppress(FileNotFoundError):
            self.socket.unlink()

    def _lines(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()


@contextmanager
def started(directory: Path, **behaviour: Any) -> Iterator[PluginProcess]:
    directory.mkdir(exist_ok=True)
    plugin = PluginProcess(directory)
    plugin.set(**behaviour)
    plugin.start()
    try:
        yield plugin
    finally:
        plugin.kill()


class _Server:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._said_wrongly: Counter[str] = Counter()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        does = json.loads((self._directory / "behaviour").read_text())
        source = request.ciphertext.hex() if method == "Decrypt" else ""
        with (self._directory / "calls").open("a") as calls:
            calls.write(json.dumps([method, source]) + "\n")
        time.sleep(does.get("seconds", 0.0))
        if source in does.get("bad", []) or method in does.get("methods", _METHODS if "code" in does else []):
            context.abort(grpc.StatusCode[does.get("code", "UNKNOWN")], does.get("details", "no"))
        return MESSAGES[f"{method}Response"](**getattr(self, method.lower())(does, request, source))

    def status(self, does: dict[str, Any], *_: object) -> dict[str, Any]:
        key_id = does.get("named", does.get("key_id", "kek-1"))
        return {"version": does.get("version", "v2"), "healthz": does.get("healthz", "ok"), "key_id": key_id}

    def encrypt(self, does: dict[str, Any], request: Any, _: str) -> dict[str, Any]:
        return {"ciphertext": base64.b64encode(request.plaintext), "key_id": does.get("key_id", "kek-1")}

    def decrypt(self, does: dict[str, Any], request: Any, source: str) -> dict[str, Any]:
        self._said_wrongly[source] += 1
        if self._said_wrongly[source] <= does.get("wrong", {}).get(source, does.get("all_wrong", 0)):
            return {"plaintext": bytes(32)}
        return {"plaintext": base64.b64decode(request.ciphertext)}


def _serve(directory: Path) -> None:
    served = _Server(directory)

    def handler(method: str) -> grpc.RpcMethodHandler[Any, Any]:
        answer: Callable[[Any, grpc.ServicerContext], Any] = lambda request, context: served.answer(  # noqa: E731
            method, request, context
        )
        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=MESSAGES[f"{method}Request"].FromString,
            response_serializer=MESSAGES[f"{method}Response"].SerializeToString,
        )

    server = grpc.server(ThreadPoolExecutor(32))
    handlers = {method: handler(method) for method in _METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v2.KeyManagementService", handlers),))
    server.add_insecure_port(f"unix:{directory}/kms.sock")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
