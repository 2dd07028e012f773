"""A plugin's client in memory, whose answers a test can replace call by call."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsUndecidedError
from kube_rewrap.worker.kms.client import Status
from kube_rewrap.worker.kms.keyring import Keyring
from kube_rewrap.worker.kms.plugins import Plugins, open_plugins
from kube_rewrap.worker.kms.writer import Writer
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.wrapped import Plugin, SourceType, WrappedKey

PLUGIN = Plugin("cloud", "v2", "unix:///run/kms.sock")
V1 = Plugin("old", "v1", "unix:///run/kms.sock")
CALL_SECONDS = 1.0


@dataclass(frozen=True)
class Call:
    method: str
    number: int
    """The calls of this method that were made before."""
    wrapped: WrappedKey | None = None


Script = Callable[[Call], Exception | None]
"""Returns the error with which a call ends, or None."""


def always(error: Exception | None) -> Script:
    return lambda _: error


SOUND = always(None)


def without_word(wrapped: WrappedKey) -> bytes:
    return wrapped.wrapped.removeprefix(b"wrapped:")


@dataclass
class ScriptedClient:
    """Wraps by putting a word before the secret."""

    plugin: Plugin = PLUGIN
    key_id: str = "kek-1"
    script: Script = SOUND
    named: Callable[[int], str] | None = None
    """Status' key id by its number of calls; None: `key_id`."""
    unwraps: Callable[[WrappedKey], bytes] = without_word
    seconds: float = CALL_SECONDS
    """Of each call."""
    calls: list[Call] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0

    def number_of(self, method: str) -> int:
        return sum(call.method == method for call in self.calls)

    def decrypts_of(self, wrapped: WrappedKey) -> int:
        return sum(call.wrapped == wrapped for call in self.calls)

    async def status(self) -> Status:
        number = await self._called("status")
        return Status(self.key_id if self.named is None else self.named(number))

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        await self._called("encrypt")
        wrapped = b"wrapped:" + secret.reveal()
        if self.plugin.version == "v1":
            return WrappedKey(self.plugin, wrapped)
        seed = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
        return WrappedKey(self.plugin, wrapped, self.key_id, source_type=seed)

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        await self._called("decrypt", wrapped)
        return SecretBytes(self.unwraps(wrapped))

    async def close(self) -> None:
        """Nothing to close."""

    async def _called(self, method: str, wrapped: WrappedKey | None = None) -> int:
        call = Call(method, self.made[method], wrapped)
        self.made[method] += 1
        self.calls.append(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            error = self.script(call)
            if error is not None:
                raise error
        finally:
            self.at_once -= 1
        return call.number


@dataclass(frozen=True)
class Bench:
    client: ScriptedClient
    plugins: Plugins
    keyring: Keyring
    writer: Writer


@asynccontextmanager
async def bench(
    client: ScriptedClient | None = None, settings: KmsSettings | None = None, rate: float = 0
) -> AsyncIterator[Bench]:
    client, settings = client or ScriptedClient(), settings or KmsSettings()
    async with open_plugins(lambda _: client, lambda _: LocalPace(rate)) as plugins:
        keyring = Keyring(plugins, settings)
        yield Bench(client, plugins, keyring, Writer(plugins, keyring, settings))


def source(name: str, key_id: str = "kek-1", plugin: Plugin = PLUGIN) -> WrappedKey:
    return WrappedKey(plugin, b"wrapped:" + name.encode(), key_id)


def now() -> float:
    return asyncio.get_running_loop().time()


def failing(*bad: WrappedKey) -> Script:
    """The plugin fails on these keys so that they may be to blame, and unwraps all others."""
    return lambda call: KmsUndecidedError("unknown") if call.wrapped in bad else None
