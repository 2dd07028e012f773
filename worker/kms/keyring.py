"""Unwraps the keys of stored objects: one Decrypt for each, whatever number of objects and tasks need it.

What becomes of a Decrypt that fails: it is tried several times with pauses. Before the last tries, a canary proves that
the plugin works. If it does not, its KmsUnavailableError or KmsRefusedError is raised: nothing is said of any key, and
no object is quarantined. A canary is before each of these tries, not after it: a plugin that recovers between the two
must not make sound keys look damaged. If the canaries pass, and the last try fails as the others:

1. Each of `UNDECIDED_TRIES` failures may be the key's (KmsUndecidedError, which a refusal is here, too: else one forged
   value would stop a campaign): the key is `RefusedKey`, and is not asked for again for `REFUSED_SECONDS`.
2. One of `TRIES` failures was one of a plugin that is down (KmsUnavailableError); or each may be the key's, and the
   plugin wavered meanwhile, or in the `WAVERED_SECONDS` before: a call that failed succeeded when it was made again, or
   a canary failed, as under throttling that the plugin reports as UNKNOWN. One forged value must not stop a campaign
   for ever, but a few failures in a row are no proof. KmsSourceError is raised, after the other keys were fetched, and
   the plugin is asked again later; after the rounds of `suspects.py`, the key is `RefusedKey`.
3. The plugin answers bytes that open no object: the caller says so by `forget`, fetches once more, and quarantines. A
   key that opened another object is not fetched again: the object is to blame.

Each call is bounded by the plugin's timeout, and the calls for a key by the tries and the canary. No task is left when
`fetch` ends: one of the waiting tasks makes the call for all; if it is cancelled, another makes the call again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsSourceError, KmsUnavailableError, KmsUndecidedError, WorkerError
from kube_rewrap.worker.kms.cache import KeyCache
from kube_rewrap.worker.kms.canary import Canary
from kube_rewrap.worker.kms.counts import Method
from kube_rewrap.worker.kms.guard import AT_ONCE, TRIES, GuardedPlugin, NotAskedError, pause
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.kms.side_by_side import side_by_side
from kube_rewrap.worker.kms.suspects import ROUND_SECONDS, Suspects
from kube_rewrap.worker.wrapped import DataKey, Plugin, RefusedKey, UnwrappedKeys, WrappedKey

UNDECIDED_TRIES = 2 * TRIES
"""More than for other failures, for these prove more: a plugin that fails each second call by chance fails on a sound
key and passes the canaries between, of two calls and more each, once in some ten thousand times."""

WAVERED_SECONDS = 60.0

_log = structlog.get_logger()

_Flight = asyncio.Future[SecretBytes | RefusedKey | WorkerError]
"""The outcome of a call in flight, for all who wait for it; cancelled if the task that made the call was."""


class Keyring:
    """The unwrapped keys of one process. For one event loop."""

    def __init__(self, plugins: Plugins, settings: KmsSettings) -> None:
        self._plugins = plugins
        self._cache = KeyCache(settings.cache_entries, settings.cache_bytes)
        self._flights: dict[WrappedKey, _Flight] = {}
        self._canaries: dict[Plugin, Canary] = {}
        self._suspects = Suspects()
        self._wavered_at: dict[Plugin, float] = {}
        """When a plugin last failed for certain, and not a key: see rule 2."""

    async def fetch(self, wanted: Collection[WrappedKey]) -> UnwrappedKeys:
        """Return each wanted key, unwrapped or refused.

        Raises KmsUnavailableError or KmsRefusedError as soon as one plugin can't say, and KmsSourceError at the end if
        one only fails on some of the keys; keys unwrapped until then are remembered.
        """
        now, found, missing = _now(), dict[WrappedKey, SecretBytes | RefusedKey](), list[WrappedKey]()
        for wrapped in dict.fromkeys(wanted):
            known = self._cache.get(wrapped, now)
            if known is None:
                missing.append(wrapped)
            else:
                found[wrapped] = known

        failing: list[KmsSourceError] = []

        async def find(wrapped: WrappedKey) -> None:
            try:
                found[wrapped] = await self._unwrapped_once(wrapped)
            except KmsSourceError as error:
                failing.append(error)

        await side_by_side(AT_ONCE, missing, find)
        if failing:
            # The latest one: until then, no other is given up for good.
            raise max(failing, key=lambda error: error.delay)
        return found

    def prove(self, wrapped: WrappedKey) -> None:
        """Note that this key opened an object: from then on, `forget` does nothing."""
        self._cache.prove(wrapped)

    def forget(self, wrapped: WrappedKey) -> None:
        """Ask for this key again at its next `fetch`: it opened an object wrongly.

        It is asked for once more, not once for each damaged object: see `KeyCache.forget`.
        """
        self._cache.forget(wrapped, _now())

    def remember(self, key: DataKey) -> None:
        """Remember a key of this process, which the plugin has unwrapped to these bytes already."""
        self._cache.put(key.wrapped, key.secret, _now())
        self._cache.prove(key.wrapped)

    async def _unwrapped_once(self, wrapped: WrappedKey) -> SecretBytes | RefusedKey:
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

    async def _fly(self, wrapped: WrappedKey) -> SecretBytes | RefusedKey:
        """Unwrap a key, and give the outcome to all who wait for it."""
        flight = self._flights[wrapped] = asyncio.get_running_loop().create_future()
        try:
            outcome = await self._unwrap(wrapped)
        except WorkerError as error:
            flight.set_result(error)
            raise
        else:
            outcome = self._cache.put(wrapped, outcome, _now())
            flight.set_result(outcome)
            return outcome
        finally:
            self._cache.restore(wrapped)  # does nothing once there is an answer
            del self._flights[wrapped]
            flight.cancel()  # does nothing once it has a result

    async def _unwrap(self, wrapped: WrappedKey) -> SecretBytes | RefusedKey:
        """Follow the rules of the module's docstring."""
        plugin = self._plugins[wrapped.plugin]
        if (wait := self._suspects.wait(wrapped, _now())) > 0:
            raise _failing(plugin, wrapped, wait)
        began = _now()
        outcome = await self._asked(plugin, wrapped)
        if isinstance(outcome, SecretBytes):
            plugin.sources += 1
            self._suspects.clear(wrapped)
            return outcome
        because = f"{plugin} does not unwrap it, and unwraps other keys"
        if isinstance(outcome, KmsUnavailableError) or self._has_wavered(wrapped.plugin, began):
            because = f"{plugin} fails on it again and again, and unwraps other keys meanwhile"
            if not self._suspects.failed(wrapped, _now()):
                _log.warning("kms.source_failing", provider=wrapped.plugin.name, source=wrapped.digest, because=because)
                raise _failing(plugin, wrapped, ROUND_SECONDS)
        plugin.refused += 1
        _log.warning("kms.source_refused", provider=wrapped.plugin.name, source=wrapped.digest, because=because)
        return RefusedKey(because)

    def _has_wavered(self, plugin: Plugin, since: float) -> bool:
        at = self._wavered_at.get(plugin)
        return at is not None and at >= min(since, _now() - WAVERED_SECONDS)

    async def _asked(
        self, plugin: GuardedPlugin, wrapped: WrappedKey
    ) -> SecretBytes | KmsUnavailableError | KmsUndecidedError:
        """Return the unwrapped key, or why all calls failed, with a canary passing before each of the last ones.

        Of failures of both kinds, KmsUnavailableError. Raises the canary's errors; NotAskedError while failures on
        other keys from etcd open the circuit again and again.
        """
        failures, failed_at, not_asked = list[KmsUnavailableError | KmsUndecidedError](), 0.0, 0
        while len(failures) < _tries_for(failures):
            if failures or not_asked:
                await pause()
            if len(failures) >= TRIES - 1 or plugin.is_open(Method.DECRYPT):
                await self._require_working(wrapped, failed_at)
            try:
                secret = await plugin.decrypt(wrapped)
            except NotAskedError:
                # No failure of this key. A canary, which this asks for, closes a circuit that others opened.
                not_asked += 1
                if not_asked == TRIES:
                    raise
            except (KmsUnavailableError, KmsUndecidedError) as error:
                failures.append(error)
            else:
                if failures:
                    self._wavered_at[wrapped.plugin] = _now()
                return secret
            failed_at = _now()
        return next((error for error in failures if isinstance(error, KmsUnavailableError)), failures[-1])

    async def _require_working(self, wrapped: WrappedKey, since: float) -> None:
        plugin = wrapped.plugin
        canary = self._canaries.get(plugin)
        if canary is None:
            canary = self._canaries[plugin] = Canary(self._plugins[plugin])
        try:
            await canary.require(since, wrapped.key_id, lambda key_id: self._cache.witness(plugin, key_id, _now()))
        except KmsUnavailableError:
            self._wavered_at[plugin] = _now()
            raise


def _tries_for(failures: Collection[KmsUnavailableError | KmsUndecidedError]) -> int:
    is_undecided = all(isinstance(error, KmsUndecidedError) for error in failures)
    return UNDECIDED_TRIES if is_undecided else TRIES


def _failing(plugin: GuardedPlugin, wrapped: WrappedKey, delay: float) -> KmsSourceError:
    message = (
        f"{plugin} fails on the wrapped key {wrapped.digest}, and unwraps other keys meanwhile; it is asked for that "
        "key again for some minutes before the objects under it are left alone"
    )
    return KmsSourceError(message, delay=delay * random.uniform(1.0, 1.1))  # noqa: S311 - jitter


def _now() -> float:
    return asyncio.get_running_loop().time()
