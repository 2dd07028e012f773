"""The data keys that the plugins of a configuration unwrap and wrap: what an engine with KMS is given."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError, WorkerError
from kube_rewrap.worker.kms.counts import PluginCounts
from kube_rewrap.worker.kms.key_ids import read_key_ids
from kube_rewrap.worker.kms.keyring import Keyring
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.kms.writer import Writer
from kube_rewrap.worker.wrapped import DataKey, Plugin, UnwrappedKeys, WrappedKey


class PluginKeys:
    """See `DataKeys`."""

    def __init__(self, plugins: Plugins, settings: KmsSettings) -> None:
        self._plugins = plugins
        self._keyring = Keyring(plugins, settings)
        self._writer = Writer(plugins, self._keyring, settings)

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """See DataKeys."""
        return await self._keyring.fetch(wanted)

    def prove(self, wrapped: WrappedKey) -> None:
        """See DataKeys."""
        self._keyring.prove(wrapped)

    def forget(self, wrapped: WrappedKey) -> None:
        """See DataKeys."""
        self._keyring.forget(wrapped)

    async def data_keys(self, plugin: Plugin, target: str, n: int, *, kek_since: int = 0) -> Sequence[DataKey]:
        """See DataKeys. Raises KmsTargetError when the plugin names another KEK than the target."""
        return await self._writer.data_keys(plugin, target, n, kek_since)

    def make_seeds_since(self, kek_since: int) -> None:
        """See `Writer.make_seeds_since`."""
        self._writer.make_seeds_since(kek_since)

    async def plugin_text(self, wrapped: WrappedKey) -> str:
        """Return what the plugin says, cut and escaped, when it is asked once to unwrap a key; "" if it unwraps it."""
        try:
            await self._plugins[wrapped.plugin].decrypt(wrapped)
        except (KmsUnavailableError, KmsRefusedError, KmsUndecidedError) as error:
            return error.plugin_text
        return ""

    async def trial_key(self, plugin: Plugin) -> DataKey:
        """Return a random key as the plugin wraps it, to measure: it was not checked, so nothing is sealed with it."""
        secret = SecretBytes(secrets.token_bytes(32))
        return DataKey(await self._plugins[plugin].encrypt(secret), secret)

    async def key_ids(self, generation: Generation) -> Mapping[str, str | WorkerError]:
        """See `read_key_ids`."""
        return await read_key_ids(self._plugins, generation)

    def counts(self) -> tuple[PluginCounts, ...]:
        """Return the counts of each plugin that was called."""
        return self._plugins.counts()
