"""Asks KMS plugins without an engine: what they name, whether they serve, and what wrapped keys of a backup are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.data_keys import DataKeys, PatientKeys
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.growth import trial_growth
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.key_ids import named_twice, read_key_ids, why_away
from kube_rewrap.worker.kms.pace import Paces, ceiling
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.wrapped import WrappedKey, plugin_of


def local_paces(settings: Settings) -> Paces:
    """Return the ceilings of calls for this process alone."""
    return lambda plugin: LocalPace(ceiling(plugin, settings.kms))


async def ask_key_ids(settings: Settings, generation: Generation) -> Mapping[str, str | WorkerError]:
    """Return the hash of the key id that each KMS plugin of `Generation.kms_writers` names, or why there is none.

    Opens new connections at each call; the caller makes one every half minute.
    """
    async with open_plugins(KmsClient, local_paces(settings)) as plugins:
        return await read_key_ids(plugins, generation)


async def ask_why_away(settings: Settings, generation: Generation, samples: Iterable[WrappedKey] = ()) -> str:
    """Return why KMS plugins of the generation do not serve now; see `why_away`. Opens new connections."""
    async with open_plugins(KmsClient, local_paces(settings)) as plugins:
        return await why_away(plugins, generation, samples)


async def try_plugin(settings: Settings, provider: KmsProvider) -> int:
    """Return by how many bytes values grow under a KMS v2 provider, which may be in no file yet.

    Asks its plugin for the status, and to wrap and unwrap a seed, as a rewrap does; connects for this call alone.
    Raises KmsUnavailableError or KmsRefusedError when the plugin can't do one of these, KmsTargetError when it
    names another KEK meanwhile.
    """
    async with open_plugins(KmsClient, local_paces(settings)) as plugins:
        target = await named_twice(plugins[plugin_of(provider)])
        keys = PluginKeys(plugins, settings.kms)
        return await trial_growth(Chain([provider], targets={provider.name: target}), keys)


@asynccontextmanager
async def open_data_keys(settings: Settings) -> AsyncIterator[DataKeys]:
    """Yield the keys of values under KMS, which plugins unwrap; connects to each plugin at the first call.

    Waits some minutes where a plugin fails on some keys and unwraps others, as the engine's inventory does.
    """
    async with open_plugins(KmsClient, local_paces(settings)) as plugins:
        yield PatientKeys(PluginKeys(plugins, settings.kms))
