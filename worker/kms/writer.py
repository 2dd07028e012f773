"""Makes the data keys that objects are sealed with.

Never one that was found in etcd: an attacker who can write to etcd and knows one old seed could otherwise have every
object sealed under it.

v2: one seed for each process, plugin and key id. Before its first use

1. Status and Encrypt name the campaign's target, in two rounds one after the other: a plugin may answer the key id of
   the call before;
2. Decrypt gives the seed back: a plugin with, say, a wrong encryption context would ruin every object.

Whenever the seed is handed out, Status has named the target within the last `SEAL_SECONDS`. A KEK may be rotated under
the same key id, and the seed is wrapped with the former one then: a campaign that an operator starts for that names a
revision, and each process replaces a seed that it may have made before, whichever campaign it works for next
(`make_seeds_since`).

v1: a data key for each object, each unwrapped once before its use unless `kms.check_wrapped` is off. v1 names no key
id, so no target is compared.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Sequence

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError
from kube_rewrap.worker.kms.guard import AT_ONCE, GuardedPlugin
from kube_rewrap.worker.kms.keyring import Keyring
from kube_rewrap.worker.kms.plugins import Plugins
from kube_rewrap.worker.kms.side_by_side import side_by_side
from kube_rewrap.worker.wrapped import DataKey, Plugin, fingerprint_of, hash_of_key_id

SLICE_SECONDS = 20.0
"""How old Status may be when a slice of a batch begins."""

SEAL_SECONDS = 60.0
"""How old Status may be when an object is sealed. kube-apiserver asks once a minute, too."""

_BYTES = 32
_AGREEING_ROUNDS = 2
_MOST_ROUNDS = 4

_log = structlog.get_logger()


class _Seed:
    """The seed for one plugin, and when Status last named its key id, by the loop's clock."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.key: DataKey | None = None
        self.named_at = 0.0
        self.kek_since = 0
        """The newest revision of etcd that lay in the past for certain when the seed was made; 0 = none is known."""


class Writer:
    """The data keys of one process. For one event loop."""

    def __init__(self, plugins: Plugins, keyring: Keyring, settings: KmsSettings) -> None:
        self._plugins = plugins
        self._keyring = keyring
        self._check_wrapped = settings.check_wrapped
        self._seeds: defaultdict[Plugin, _Seed] = defaultdict(_Seed)
        self._kek_since = 0

    def make_seeds_since(self, kek_since: int) -> None:
        """From now on, replace each seed that may have been made before this revision; `kek_since` as in `DataKeys`.

        The batch at hand may be of a campaign without `since`, when other processes did all work of the one with it.
        """
        self._kek_since = max(self._kek_since, kek_since)

    async def prepare(self, plugin: Plugin, target: str) -> None:
        """Make sure, when a slice of a batch begins, that the plugin still names the target. Raises as `data_keys`."""
        if plugin.version == "v2":
            await self._seed(plugin, target, SLICE_SECONDS, 0)

    async def data_keys(self, plugin: Plugin, target: str, n: int, kek_since: int = 0) -> Sequence[DataKey]:
        """Return data keys for n objects: n times the seed in v2; n keys in v1, each for one object.

        `kek_since` as in `DataKeys`.

        Raises before anything is sealed: KmsTargetError when the plugin names another key id than the target,
        KmsUnavailableError, and KmsRefusedError, also for a plugin that contradicts itself.
        """
        if plugin.version == "v2":
            return [await self._seed(plugin, target, SEAL_SECONDS, kek_since)] * n
        keys: list[DataKey] = []

        async def make(_: int) -> None:
            key = await _wrapped(self._plugins[plugin])
            if self._check_wrapped:
                await _require_opens(self._plugins[plugin], key)
            keys.append(key)

        await side_by_side(AT_ONCE, range(n), make)
        return keys

    async def _seed(self, plugin: Plugin, target: str, within: float, kek_since: int) -> DataKey:
        """Return the seed under this key id, which Status named within the last seconds; make it if there is none.

        One that may have been made before the revision `kek_since`, or any known one, is replaced.
        """
        guarded, seed, kek_since = self._plugins[plugin], self._seeds[plugin], max(kek_since, self._kek_since)
        async with seed.turn:
            now = _now()
            if seed.key is None or hash_of_key_id(seed.key.wrapped.key_id) != target or seed.kek_since < kek_since:
                seed.key = await self._make_seed(guarded, target)
                seed.named_at = now
                seed.kek_since = max(seed.kek_since, kek_since)
            elif now - seed.named_at > within:
                await _require_named(guarded, target)
                seed.named_at = now
            return seed.key

    async def _make_seed(self, plugin: GuardedPlugin, target: str) -> DataKey:
        """Make a seed by the module's rules 1 and 2."""
        key = await _agreed(plugin, target)
        await _require_opens(plugin, key)
        self._keyring.remember(key)
        plugin.seeds += 1
        _log.info(
            "kms.seed_made",
            provider=plugin.plugin.name,
            fingerprint=fingerprint_of(target),
            source=key.wrapped.digest,
            because="Status and Encrypt named the target twice, and Decrypt gave the seed back",
        )
        return key


async def _agreed(plugin: GuardedPlugin, target: str) -> DataKey:
    """Return a key wrapped under the target, after two rounds in a row in which Status and Encrypt named it."""
    agreeing, named = 0, ""
    for _ in range(_MOST_ROUNDS):
        await _require_named(plugin, target)
        key = await _wrapped(plugin)
        named = hash_of_key_id(key.wrapped.key_id)
        agreeing = agreeing + 1 if named == target else 0
        if agreeing == _AGREEING_ROUNDS:
            return key
    raise KmsRefusedError(
        f"{plugin} names {_named(target)} by Status and {_named(named)} by Encrypt; "
        "nothing is sealed with a key of it until both name the same one"
    )


async def _require_named(plugin: GuardedPlugin, target: str) -> None:
    """Raise KmsTargetError unless Status names the target, at the second call at the latest."""
    named = hash_of_key_id((await plugin.status()).key_id)
    if named != target:
        # A plugin that answers the key id of the call before is right now.
        named = hash_of_key_id((await plugin.status()).key_id)
    if named != target:
        raise KmsTargetError(
            f"{plugin} names {_named(named)}, the campaign's target is {_named(target)}; "
            "a worker whose plugin names the target can go on"
        )


async def _wrapped(plugin: GuardedPlugin) -> DataKey:
    """Return a random key and its wrapped form."""
    secret = SecretBytes(secrets.token_bytes(_BYTES))
    return DataKey(await plugin.encrypt(secret), secret)


async def _require_opens(plugin: GuardedPlugin, key: DataKey) -> None:
    """Raise KmsRefusedError unless the plugin unwraps a key to what it wrapped."""
    if await plugin.decrypt_known(key.wrapped) != key.secret:
        raise KmsRefusedError(f"{plugin} wrapped a key and unwrapped it to other bytes; nothing is sealed with it")


def _named(key_id_hash: str) -> str:
    """Name a key id, which is untrusted text, by its fingerprint."""
    return f"the key id with fingerprint {fingerprint_of(key_id_hash)}"


def _now() -> float:
    return asyncio.get_running_loop().time()
