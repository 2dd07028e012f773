"""The plugins that a process calls, each connected at first use, with what keyring and writer share of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from kube_rewrap.worker.kms.counts import PluginCounts
from kube_rewrap.worker.kms.guard import Client, GuardedPlugin
from kube_rewrap.worker.kms.pace import Paces
from kube_rewrap.worker.wrapped import Plugin

Connect = Callable[[Plugin], Client]
"""Makes a client; it connects at its first call."""


class Plugins:
    """See the module's docstring. For one event loop. `open_plugins` makes it.

    The configuration alone names plugins, so there are as many as it has stanzas.
    """

    def __init__(self, connect: Connect, paces: Paces) -> None:
        self._connect = connect
        self._paces = paces
        self._made: dict[Plugin, GuardedPlugin] = {}

    def __getitem__(self, plugin: Plugin) -> GuardedPlugin:
        made = self._made.get(plugin)
        if made is None:
            made = self._made[plugin] = GuardedPlugin(plugin, self._connect(plugin), self._paces(plugin))
        return made

    def counts(self) -> tuple[PluginCounts, ...]:
        """Return the counts of each plugin that was used."""
        return tuple(one.counts() for one in self._made.values())

    async def close(self) -> None:
        """Close every connection."""
        for one in self._made.values():
            await one.close()


@asynccontextmanager
async def open_plugins(connect: Connect, paces: Paces) -> AsyncIterator[Plugins]:
    """Yield the plugins, and close their connections when the block ends."""
    plugins = Plugins(connect, paces)
    try:
        yield plugins
    finally:
        await plugins.close()
