"""Unwraps the keys of stored objects: one Decrypt for each, whatever number of objects and tasks need it.

What becomes of a Decrypt that fails:

1. The plugin or its KMS is down (KmsUnavailableError): tried `TRIES` times with pauses, then raised. Nothing is said
   of any key, so no object is quarantined.
2. The failure may be the key's or the plugin's (KmsUndecidedError, which a refusal is here, too: else one forged value
   would stop a campaign): tried `TRIES` times, too. Before the last try a canary proves that the plugin works. If it
   does not, its KmsUnavailableError or KmsRefusedError is raised. If it does, and the last try fails as the others,
   the key is `Refused`, and is not asked for again for `REFUSED_SECONDS`. The canary is before the last try, not after
   it: a plugin that recovers between the two must not make sound keys look damaged.
3. The plugin answers bytes that open no object: the caller says so by `forget`, fetches once more, and quarantines.

Each call is bounded by the plugin's timeout, and the calls for a key by the tries and the canary. No task is left when
`fetch` ends: one of the waiting tasks makes the call for all; if it is cancelled, another makes the call again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsUnavailableError, KmsUndecidedError, WorkerError
from kube_rewrap.worker.kms.cache import KeyCache
from kube_rewrap.worker.kms.canary import Canary
from kube_rewrap.worker.kms.counts import Method
from kube_rewrap.worker.kms.guard import AT_ONCE, TRIES, pause
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.kms.side_by_side import side_by_side
from kube_rewrap.worker.wrapped import DataKey, Plugin, Refused, UnwrappedKeys, WrappedKey

_log = structlog.get_logger()

_Flight = asyncio.Future[SecretBytes | Refused | WorkerError]
"""The outcome of a call in flight, for all who wait for it; cancelled if the task that made the call was."""


class Keyring:
    """The unwrapped keys of one process. For one event loop."""

    def __init__(self, plugins: Plugins, settings: KmsSettings) -> None:
        self._plugins = plugins
        self._cache = KeyCache(settings.cache_entries, settings.cache_bytes)
        self._flights: dict[WrappedKey, _Flight] = {}
        self._canaries: dict[Plugin, Canary] = {}

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """Return each wanted key, unwrapped or refused.

        Raises KmsUnavailableError or KmsRefusedError as soon as one plugin can't say; keys unwrapped until then are
        remembered.
        """
        now, found, missing = _now(), dict[WrappedKey, SecretBytes | Refused](), list[WrappedKey]()
        for wrapped in dict.fromkeys(wanted):
            known = self._cache.get(wrapped, now)
            if known is None:
                missing.append(wrapped)
            else:
                found[wrapped] = known

        async def find(wrapped: WrappedKey) -> None:
            found[wrapped] = await self._unwrapped_once(wrapped)

        await side_by_side(AT_ONCE, missing, find)
        return found

    def forget(self, wrapped: WrappedKey) -> None:
        """Ask for this key again at its next `fetch`: it opened an object wrongly.

        It is asked for once more, not once for each damaged object: see `KeyCache.forget`.
        """
        self._cache.forget(wrapped, _now())

    def remember(self, key: DataKey) -> None:
        """Remember a key of this process, which the plugin has unwrapped to these bytes already."""
        self._cache.put(key.wrapped, key.secret, _now())

    async def _unwrapped_once(self, wrapped: WrappedKey) -> SecretBytes | Refused:
        """Return a key from the cache, from the call in flight, or by a call of our own."""
        while True:
            known = self._cache.get(wrapped, _now())
            if known is not None:
                return known
            flight = self._flights.get(wrapped)
            if flight is None:
                return await self._fly(wrapped)
            # Not `await flight`: the cancellation of one waiting task would cancel it for all.
            await asyncio.wait({flight})
            if not flight.cancelled():
                outcome = flight.result()
                if isinstance(outcome, WorkerError):
                    raise outcome
                return outcome

    async def _fly(self, wrapped: WrappedKey) -> SecretBytes | Refused:
        """Unwrap a key, and give the outcome to all who wait for it."""
        flight = self._flights[wrapped] = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._unwrap(wrapped)
        except WorkerError as error:
            flight.set_result(error)
            raise
        else:
            flight.set_result(outcome)
            self._cache.put(wrapped, outcome, _now())
            return outcome
        finally:
            del self._flights[wrapped]
            flight.cancel()  # does nothing once it has a result

    async def _unwrap(self, wrapped: WrappedKey) -> SecretBytes | Refused:
        """Follow rules 1 and 2 of the module's docstring."""
        plugin = self._plugins[wrapped.plugin]
        failed_at, away = 0.0, None
        for attempt in range(1, TRIES + 1):
            if attempt > 1:
                await pause()
            if attempt == TRIES and away is None:
                await self._require_working(wrapped, failed_at)
            try:
                secret = await plugin.decrypt(wrapped)
            except KmsUndecidedError:
                failed_at = _now()
            except KmsUnavailableError as error:
                away = error
                if plugin.is_open(Method.DECRYPT):
                    break
            else:
                plugin.sources += 1
                return secret
        if away is not None:
            raise away
        plugin.refused += 1
        because = f"{plugin} does not unwrap it, and unwraps other keys"
        _log.warning("kms.source_refused", provider=wrapped.plugin.name, source=wrapped.digest, because=because)
        return Refused(because)

    async def _require_working(self, wrapped: WrappedKey, since: float) -> None:
        plugin = wrapped.plugin
        canary = self._canaries.get(plugin)
        if canary is None:
            canary = self._canaries[plugin] = Canary(self._plugins[plugin])
        await canary.require(since, self._cache.witness(plugin, wrapped.key_id, _now()))


def _now() -> float:
    return asyncio.get_running_loop().time()
