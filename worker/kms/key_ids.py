"""Which KEK each plugin names, which is what a generation is aimed at; and which plugins do not serve."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, WorkerError
from kube_rewrap.worker.kms.guard import GuardedPlugin
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.wrapped import hash_of_key_id, plugin_of

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


async def why_away(plugins: Plugins, generation: Generation) -> str:
    """Return why plugins of the generation do not serve now, those that only read included; "" = all answer."""
    failures = await asyncio.gather(*(_failure(plugins[plugin_of(one)]) for one in generation.kms_providers))
    return "; ".join(filter(None, failures))


async def _failure(plugin: GuardedPlugin) -> str:
    try:
        await plugin.status()
    except (KmsUnavailableError, KmsRefusedError) as error:
        return str(error)
    return ""


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
