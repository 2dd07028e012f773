"""Which KEK each plugin names, which is what a generation is aimed at; and which plugins do not serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError, WorkerError
from kube_rewrap.worker.kms.canary import Canary
from kube_rewrap.worker.kms.guard import GuardedPlugin
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.wrapped import Plugin, WrappedKey, hash_of_key_id, plugin_of

_MOST_ROUNDS = 4


async def read_key_ids(plugins: Plugins, generation: Generation) -> Mapping[str, str | WorkerError]:
    """Return the hash of the key id that the plugin of each of `Generation.kms_writers` names, or why there is none.

    All plugins are asked at the same time, so several that hang cost the time of one.
    """
    writers = generation.kms_writers
    answers = await asyncio.gather(*(_answer(plugins[plugin_of(writer)]) for writer in writers))
    return {writer.name: answer for writer, answer in zip(writers, answers, strict=True)}


async def _answer(plugin: GuardedPlugin) -> str | WorkerError:
    try:
        return await named_twice(plugin)
    except (KmsUnavailableError, KmsRefusedError) as error:
        return error


async def why_away(plugins: Plugins, generation: Generation, samples: Iterable[WrappedKey] = ()) -> str:
    """Return why plugins of the generation do not serve now, those that only read included; "" = all serve.

    1. Each must answer Status, or in v1 Version.
    2. Each of a provider that writes must wrap and unwrap a random key: Status may be healthy when calls fail.
    3. Of `samples`, wrapped keys from etcd, each must unwrap one of its own, if it has any. Where it unwraps none, it
       still serves if it wraps and unwraps a random key: the samples are to blame. A plugin of a provider that only
       reads may not be allowed to wrap, so it is not asked before that.
    """
    first = (entry.providers[0] for entry in generation.configuration.entries)
    primaries = {plugin_of(one) for one in first if isinstance(one, KmsProvider)}
    wanted: dict[Plugin, list[WrappedKey]] = {plugin_of(one): [] for one in generation.kms_providers}
    for sample in samples:
        wanted.setdefault(sample.plugin, []).append(sample)
    failures = await asyncio.gather(
        *(_failure(plugins[plugin], keys, writes=plugin in primaries) for plugin, keys in wanted.items())
    )
    return "; ".join(filter(None, failures))


async def _failure(plugin: GuardedPlugin, samples: Iterable[WrappedKey], *, writes: bool) -> str:
    try:
        await plugin.status()
        if writes or await _unwraps_none(plugin, samples):
            await Canary(plugin).require(asyncio.get_running_loop().time(), "", lambda _key_id: None)
    except (KmsUnavailableError, KmsRefusedError) as error:
        return str(error)
    return ""


async def _unwraps_none(plugin: GuardedPlugin, samples: Iterable[WrappedKey]) -> bool:
    """Whether there are samples, and a plugin unwraps none of them."""
    has_failed = False
    for sample in samples:
        try:
            await plugin.decrypt(sample)
        except (KmsUnavailableError, KmsUndecidedError, KmsRefusedError):
            has_failed = True
        else:
            return False
    return has_failed


async def named_twice(plugin: GuardedPlugin) -> str:
    """Return what Status names twice in a row: a plugin may answer the key id of the call before.

    Raises KmsUnavailableError, KmsRefusedError.
    """
    before = ""
    for _ in range(_MOST_ROUNDS):
        named = (await plugin.status()).key_id
        if named == before:
            return hash_of_key_id(named)
        before = named
    raise KmsRefusedError(f"{plugin} names another key id at each call of Status")
