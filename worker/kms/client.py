"""The client of one KMS plugin: its channel, the deadline of a call, and the checks of every answer.

An answer is hostile until it is checked: its size by the channel, then its encoding, then each field. No message and no
text of the plugin is logged, or put into an error's message. A failed call is logged with its uid, which the plugin's
log has as well, and with our digest of the wrapped key.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from kube_rewrap.config.encryption.address import Address, address_of
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.errors import KmsError, extract, translate
from kube_rewrap.worker.kms.messages import V1BETA1, V2, Method, message, path_of
from kube_rewrap.worker.kms_limits import LONGEST_KEY_ID, LONGEST_WRAPPED, fault_of_annotations, is_key_id
from kube_rewrap.worker.wrapped import SourceType, WrappedKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kube_rewrap.worker.wrapped import Plugin

_LARGEST_ANSWER = 128 * 2**10
"""Bytes. The largest valid answers are a wrapped key of 64 KiB (v1), and annotations of 32 KiB (v2)."""
_LONGEST_SECRET = 1024
"""Bytes of an unwrapped seed. Kubernetes makes seeds of 32 and has no upper limit for what it reads."""
_LONGEST_CALL = 60.0
"""Seconds. A stanza may have a timeout of any length; a command, or a worker's slice, must end all the same."""
_AES_KEYS = (16, 24, 32)
_SHORTEST_SEED = 32
_V2_VERSIONS = ("v2", "v2beta1")


_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Without it grpc sends the escaped path, which servers on Rust's h2 refuse (grpc/grpc#38142).
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # gRPC's default of two minutes outlasts a plugin's restart by far
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # the caller counts and paces each call
    ("grpc.use_local_subchannel_pool", 1),  # one stanza's back-off is not another's
)


_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Status:
    """What a healthy plugin answered. `key_id` names the KEK that it wraps with; "" in v1, which names none."""

    key_id: str


class KmsClient:
    """Calls one plugin. Make it inside the event loop that uses it: one for each stanza, process and event loop.

    Each call ends within the stanza's timeout and `_LONGEST_CALL`, v1's handshake included, and is made once. Calls
    raise

    - KmsUnavailableError: the plugin, or the KMS behind it, does not work now;
    - KmsRefusedError: it can't serve until an operator acts;
    - KmsUndecidedError: it failed, and whether the plugin or the key is to blame is open.
    """

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._package = V1BETA1 if plugin.version == "v1" else V2
        self._subject = f"the plugin of KMS provider {plugin.name!r} ({plugin.version})"
        self._address = address_of(plugin.endpoint)
        self._seconds = min(plugin.timeout_seconds, _LONGEST_CALL)
        self._channel = _open(self._address)
        self._handshake = asyncio.Lock()
        self._is_greeted = False
        self._first_version = ""

    async def status(self) -> Status:
        """Ask for the plugin's status, in v1 for its version. Raises KmsRefusedError when it is not healthy."""
        if self._plugin.version == "v1":
            async with self._asking("Version"):
                await self._greet()
            return Status("")
        async with self._asking("Status"):
            return self._checked_status(await self._call("Status"))

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        """Unwrap a key; its length fits its type.

        Raises ValueError for a wrapped key of another plugin.
        """
        if wrapped.plugin != self._plugin:
            raise ValueError("the wrapped key belongs to another plugin")
        uid = self._new_uid()
        async with self._asking("Decrypt", uid, source=wrapped.digest):
            if self._plugin.version == "v1":
                plain = (await self._call_v1("Decrypt", cipher=wrapped.wrapped)).plain
            else:
                answer = await self._call(
                    "Decrypt",
                    ciphertext=wrapped.wrapped,
                    uid=uid,
                    key_id=wrapped.key_id,
                    annotations=dict(wrapped.annotations),
                )
                plain = answer.plaintext
            if not _fits(len(plain), wrapped.source_type):
                raise KmsUndecidedError(f"{self._subject} unwrapped a key to {len(plain)} bytes, which fits no key")
        return SecretBytes(plain)

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        """Wrap a data key (v1) or a seed (v2), within the limits of Kubernetes.

        Raises KmsRefusedError for an answer that kube-apiserver would not take.
        """
        uid = self._new_uid()
        async with self._asking("Encrypt", uid):
            if self._plugin.version == "v1":
                cipher = (await self._call_v1("Encrypt", plain=secret.reveal())).cipher
                self._require_length(cipher)
                return WrappedKey(self._plugin, cipher)
            answer = await self._call("Encrypt", plaintext=secret.reveal(), uid=uid)
            self._require_length(answer.ciphertext)
            self._require_key_id(answer.key_id, "Encrypt")
            annotations = tuple(sorted(answer.annotations.items()))
            if fault := fault_of_annotations(annotations):
                raise self._refused(f"gave annotations that Kubernetes refuses: {fault}")
        seed = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
        return WrappedKey(self._plugin, answer.ciphertext, answer.key_id, annotations, seed)

    async def close(self) -> None:
        """Close the connection; calls in flight end with KmsUnavailableError or are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    # -------------------------------------------------------------------------------------------------------- checks

    def _checked_status(self, answer: Any) -> Status:
        """Stricter than kube-apiserver, which writes on while healthz or version is wrong (kubernetes#138950)."""
        if answer.healthz != "ok":
            raise self._refused("says that it is not healthy", answer.healthz)
        if answer.version not in _V2_VERSIONS:
            raise self._refused("has a version other than v2 and v2beta1", answer.version)
        if answer.version != (self._first_version or answer.version):
            raise self._refused("has another version than before", answer.version)
        self._require_key_id(answer.key_id, "Status")
        self._first_version = answer.version
        return Status(answer.key_id)

    def _require_key_id(self, key_id: str, method: Method) -> None:
        if not is_key_id(key_id):
            length = len(key_id.encode())
            raise self._refused(f"gave a key id of {length} bytes in {method}; 1 to {LONGEST_KEY_ID} are valid")

    def _require_length(self, wrapped: bytes) -> None:
        longest = LONGEST_WRAPPED[self._plugin.version]
        if not 1 <= len(wrapped) <= longest:
            raise self._refused(f"wrapped a key to {len(wrapped)} bytes; 1 to {longest} are valid")

    def _refused(self, what: str, plugin_text: str = "") -> KmsRefusedError:
        error = KmsRefusedError(f"{self._subject} {what}")
        error.plugin_text = extract(plugin_text)
        return error

    # --------------------------------------------------------------------------------------------------------- calls

    def _new_uid(self) -> str:
        """Return a random uid, which v2 alone sends; made of nothing secret."""
        return str(uuid.uuid4()) if self._plugin.version == "v2" else ""

    @asynccontextmanager
    async def _asking(self, method: Method, uid: str = "", **logged: str) -> AsyncIterator[None]:
        """End the calls inside within the deadline; log their failure."""
        greets = self._plugin.version == "v1" and not self._is_greeted and method != "Version"
        try:
            asked = f"Version or {method}" if greets else method
            async with _deadline(self._seconds, f"{self._subject} did not answer {asked}"):
                yield
        except (KmsUnavailableError, KmsRefusedError, KmsUndecidedError) as error:
            context = {"uid": uid, **logged} if uid else logged
            name, version = self._plugin.name, self._plugin.version
            _log.info("kms.call_failed", provider=name, version=version, method=method, **context, because=str(error))
            raise

    async def _call_v1(self, method: Method, **fields: Any) -> Any:
        """Call a method of v1, after the handshake if none succeeded yet."""
        if not self._is_greeted:
            async with self._handshake:
                if not self._is_greeted:
                    await self._greet()
        return await self._call(method, version=V1BETA1, **fields)

    async def _greet(self) -> None:
        answer = await self._call("Version", version=V1BETA1)
        if answer.version != V1BETA1:
            raise self._refused("has a version other than v1beta1", answer.version)
        self._is_greeted = True

    async def _call(self, method: Method, **fields: Any) -> Any:
        """Make one call and decode its answer."""
        if self._channel is None:
            raise KmsRefusedError(f"{self._subject} can't be dialled: {self._address.warning}")
        request = message(self._package, f"{method}Request")(**fields).SerializeToString()
        # Answers stay bytes here: grpc would hide an error of a deserializer behind INTERNAL, which counts as passing.
        call: Any = self._channel.unary_unary(path_of(self._package, method))
        try:
            answer = await call(request, timeout=self._seconds)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error, method) from None
        except grpc.aio.UsageError:
            raise KmsUnavailableError(f"{self._subject} was called after the connection was closed") from None
        try:
            return message(self._package, f"{method}Response").FromString(answer)
        except (DecodeError, UnicodeDecodeError):  # the latter by protobuf without its extension module
            raise KmsUndecidedError(f"{self._subject} gave an answer to {method} that does not decode") from None

    def _failed(self, error: grpc.aio.AioRpcError, method: Method) -> KmsError:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            obstacle = _obstacle(self._address, self._subject)
            if obstacle is not None:
                return obstacle
        return translate(error.code(), error.details() or "", self._subject, method)


@asynccontextmanager
async def _deadline(seconds: float, failure: str) -> AsyncIterator[None]:
    """End the calls inside after some seconds, with KmsUnavailableError, whose message begins with `failure`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise KmsUnavailableError(f"{failure} within {seconds:g} s; see its log: it may wait for its KMS") from None


def _open(address: Address) -> grpc.aio.Channel | None:
    """Make the channel without connecting; None where no socket can have the address."""
    if not address.socket:
        return None
    # grpc unescapes the target once. `quote` also keeps bytes that are no UTF-8.
    escaped = quote(address.socket.removeprefix("@"), safe="/", errors="surrogateescape")
    scheme = "unix-abstract" if address.is_abstract else "unix"
    return grpc.aio.insecure_channel(f"{scheme}:{escaped}", options=_OPTIONS)


def _fits(length: int, source_type: SourceType) -> bool:
    if source_type is SourceType.AES_GCM_KEY:
        return length in _AES_KEYS
    return _SHORTEST_SEED <= length <= _LONGEST_SECRET


def _obstacle(address: Address, subject: str) -> KmsError | None:
    """Connect once more, without grpc, which hides the reason; None if that succeeds. It does not wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        name = f"\0{address.socket[1:]}" if address.is_abstract else address.socket
        try:
            probe.connect(name.encode("utf-8", "surrogateescape"))
        except OSError as error:
            return _OBSTACLES.get(error.errno or 0, _unreachable)(address, subject)
    return None


def _denied(address: Address, subject: str) -> KmsError:
    return KmsRefusedError(
        f"{subject} can't be reached: permission to write to {address.socket!r} is missing; run as the plugin's user, "
        "or give a shared group write permission (root without capabilities is refused, too)"
    )


def _missing(address: Address, subject: str) -> KmsError:
    remedy = "start the plugin, or mount the directory of its socket"
    return KmsUnavailableError(f"{subject} can't be reached: {address.socket!r} does not exist; {remedy}")


def _unreachable(address: Address, subject: str) -> KmsError:
    message = f"{subject} can't be reached: no process accepts connections at {address.socket!r}; start the plugin"
    return KmsUnavailableError(message)


_OBSTACLES = {errno.EACCES: _denied, errno.EPERM: _denied, errno.ENOENT: _missing}
