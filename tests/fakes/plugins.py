"""Plugins in memory: they wrap by base64, as the recording's did, and count what they unwrap."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Sequence

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.wrapped import (
    DataKey,
    Plugin,
    RefusedKey,
    SourceType,
    UnwrappedKeys,
    WrappedKey,
    hash_of_key_id,
)

_KEY_IDS = {hash_of_key_id(name): name for name in ("kek-1", "kek-2", "kek-3")}


def unwrap(wrapped: WrappedKey) -> SecretBytes | RefusedKey:
    """What a plugin answers whose Encrypt is base64."""
    try:
        return SecretBytes(base64.b64decode(wrapped.wrapped, validate=True))
    except ValueError:
        return RefusedKey("the plugin does not unwrap it")


def unwrap_all(wanted: Collection[WrappedKey]) -> UnwrappedKeys:
    return {wrapped: unwrap(wrapped) for wrapped in wanted}


def new_data_key(plugin: Plugin, key_id: str = "", secret: bytes | None = None) -> DataKey:
    """A data key or seed of random bytes, or of these. `key_id` may be its hash, as a chain's target is."""
    key_id = _KEY_IDS.get(key_id, key_id)
    secret = os.urandom(32) if secret is None else secret
    kind = SourceType.AES_GCM_KEY if plugin.version == "v1" else SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
    annotations = () if plugin.version == "v1" else (("local-kek.kms.kubernetes.io", b"\0\x1b"),)
    return DataKey(WrappedKey(plugin, base64.b64encode(secret), key_id, annotations, kind), SecretBytes(secret))


class MemoryPlugins:
    """A `DataKeys` without servers. `failing`: raised by the next call, once.

    `wrong`: so many more answers have other bytes than were wrapped.
    """

    def __init__(self) -> None:
        self.wrong = 0
        self.asked: list[WrappedKey] = []
        self.made: list[DataKey] = []
        self.failing: Exception | None = None
        self.key_id: str | None = None
        """The key id under which v2 keys are made; None = the one that is asked for."""
        self._known: dict[WrappedKey, SecretBytes | RefusedKey] = {}
        self._forgotten: set[WrappedKey] = set()
        """And those that opened a value."""
        self._kek_since = 0
        self._seeds: dict[tuple[Plugin, str], DataKey] = {}

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        if wanted:
            self._fail()
        for wrapped in wanted:
            if wrapped not in self._known:
                self.asked.append(wrapped)
                self._known[wrapped] = unwrap(wrapped)
                if self.wrong > 0:
                    self.wrong -= 1
                    self._known[wrapped] = SecretBytes(os.urandom(32))
        return {wrapped: self._known[wrapped] for wrapped in wanted}

    def prove(self, wrapped: WrappedKey) -> None:
        self._forgotten.add(wrapped)

    def forget(self, wrapped: WrappedKey) -> None:
        """Once for each key, as the keyring does."""
        if wrapped not in self._forgotten:
            self._forgotten.add(wrapped)
            del self._known[wrapped]

    async def data_keys(self, plugin: Plugin, target: str, n: int, *, kek_since: int = 0) -> Sequence[DataKey]:
        self._fail()
        if plugin.version == "v1":
            made = [new_data_key(plugin) for _ in range(n)]
            self.made += made
            return made
        under = (plugin, _KEY_IDS[target] if self.key_id is None else self.key_id)
        if under not in self._seeds or self._kek_since < kek_since:
            self._kek_since = kek_since
            self._seeds[under] = new_data_key(*under)
            self.made.append(self._seeds[under])
        return [self._seeds[under]] * n

    def _fail(self) -> None:
        if self.failing is not None:
            error, self.failing = self.failing, None
            raise error
