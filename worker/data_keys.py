"""How the data keys of KMS providers are obtained: the interface that the engine is given, and its absence."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsSourceError, UnsupportedPrimaryError
from kube_rewrap.worker.wrapped import DataKey, Plugin, RefusedKey, UnwrappedKeys, WrappedKey


class DataKeys(Protocol):
    """Asks the KMS plugins; belongs to one event loop."""

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """Return an answer for each wanted key: unwrapped, or refused. Asks nothing for none.

        Raises KmsUnavailableError or KmsRefusedError when a plugin can't say; then nothing is known of any object.
        Raises KmsSourceError when a plugin fails on some of the keys: call it again after its `delay`, until these are
        unwrapped or refused, which takes minutes.
        """

    def prove(self, wrapped: WrappedKey) -> None:
        """Note that this key opened an object: from then on, `forget` does nothing."""

    def forget(self, wrapped: WrappedKey) -> None:
        """Ask the plugin again for this key at its next `fetch`, unless that was done a while ago."""

    async def data_keys(self, plugin: Plugin, target: str, n: int, *, kek_since: int = 0) -> Sequence[DataKey]:
        """Return data keys for n objects: in v1 n different ones, in v2 n times the same.

        `target` is the KEK to write under, as `hash_of_key_id` names it; "" in v1. `kek_since` is a revision of etcd
        in the past, since which the plugin has wrapped with the present KEK: no key made before that is returned.

        Raises as `fetch`, before anything is sealed; KmsRefusedError also when the plugin names another key id.
        """


def refused(wanted: Collection[WrappedKey]) -> UnwrappedKeys:
    """Return the answers of a process that asks no plugin."""
    return dict.fromkeys(wanted, RefusedKey("this process asks no KMS plugin to unwrap its key"))


async def fetch_again(
    keys: DataKeys, closed: Collection[WrappedKey], opened: Collection[WrappedKey], unwrapped: UnwrappedKeys
) -> UnwrappedKeys:
    """Return the answers once more for keys of values that did not open, as far as `unwrapped` holds keys for them.

    A plugin may have unwrapped a key to wrong bytes once; before an object is quarantined for that, it is asked again.
    Not for a key of v2 that opened another value, now (`opened`: the keys of values that did) or earlier: the value is
    to blame, and a plugin that fails meanwhile must not cost the others their key. Of v1 each value has its own key,
    and several may be named by one value. Returns nothing, and asks nothing, where the plugins refused all of them.
    Raises as `fetch`.
    """
    for wrapped in opened:
        if wrapped.plugin.version == "v2" and isinstance(unwrapped[wrapped], SecretBytes):
            keys.prove(wrapped)
    doubtful = [wrapped for wrapped in closed if isinstance(unwrapped[wrapped], SecretBytes)]
    for wrapped in doubtful:
        keys.forget(wrapped)
    return await keys.fetch(doubtful)


class PatientKeys:
    """The keys of a scan that nothing repeats: it waits where a plugin fails on some keys and unwraps others."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """See DataKeys. Repeats a fetch until each such key is unwrapped or refused, which takes some minutes."""
        while True:
            try:
                return await self._keys.fetch(wanted)
            except KmsSourceError as error:
                await asyncio.sleep(error.delay)

    def prove(self, wrapped: WrappedKey) -> None:
        """See DataKeys."""
        self._keys.prove(wrapped)

    def forget(self, wrapped: WrappedKey) -> None:
        """See DataKeys."""
        self._keys.forget(wrapped)

    async def data_keys(self, plugin: Plugin, target: str, n: int, *, kek_since: int = 0) -> Sequence[DataKey]:
        """See DataKeys."""
        return await self._keys.data_keys(plugin, target, n, kek_since=kek_since)


class NoPlugins:
    """A process without KMS: every key is refused, and nothing is written."""

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """Refuse each key."""
        return refused(wanted)

    def prove(self, wrapped: WrappedKey) -> None:
        """Do nothing: no key was unwrapped."""

    def forget(self, wrapped: WrappedKey) -> None:
        """Do nothing: no key was unwrapped."""

    async def data_keys(self, plugin: Plugin, target: str, n: int, *, kek_since: int = 0) -> Sequence[DataKey]:  # noqa: ARG002
        """Raise UnsupportedPrimaryError."""
        raise UnsupportedPrimaryError(f"this process does not write with KMS ({plugin.name!r})")
