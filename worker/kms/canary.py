"""Proof that a plugin works, before a failure is blamed on a wrapped key.

gRPC's codes do not tell a damaged source from throttling or a disabled KEK. So the plugin unwraps a source that it
unwrapped before under the same key id, and wraps and unwraps random bytes of this process. A plugin that may only
decrypt (`GuardedPlugin.may_not_encrypt`) unwraps a source that it unwrapped before under any key id instead.

Each call is made once: a canary whose calls were tried again would pass beside a plugin that throttles, and sound keys
would be blamed for what it does.

Not handled: a KEK that is disabled, and under which this process never opened a source, looks like damage.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.kms.guard import GuardedPlugin
from kube_rewrap.worker.wrapped import DataKey

_BYTES = 32
_FAILED_DELAY = 5.0


class Canary:
    """The canary of one plugin. One runs at a time, and answers for each caller whose failure came before it."""

    def __init__(self, plugin: GuardedPlugin) -> None:
        self._plugin = plugin
        self._turn = asyncio.Lock()
        self._passed: tuple[str | None, float] | None = None

    async def require(self, since: float, key_id: str, witness: Callable[[str | None], DataKey | None]) -> None:
        """Return if the plugin works at a time after `since`, by the loop's clock.

        `witness` returns a key that the plugin unwrapped before under a key id, or under any (None); None without one.
        Raises KmsUnavailableError if the plugin does not work, KmsRefusedError if it is not allowed to.
        """
        async with self._turn:
            known = witness(key_id)
            under = None if known is None else key_id
            if self._passed is not None and self._passed[0] == under and self._passed[1] >= since:
                return
            began = asyncio.get_running_loop().time()
            if known is not None:
                await self._require_opens(known)
            secret = SecretBytes(secrets.token_bytes(_BYTES))
            try:
                own = DataKey(await self._plugin.encrypt_once(secret), secret)
            except (KmsRefusedError, KmsUnavailableError):
                other = witness(None) if known is None else known
                if other is None or not self._plugin.may_not_encrypt:
                    raise
                own = other
            if own is not known:
                await self._require_opens(own)
            self._passed = (under, began)

    async def _require_opens(self, known: DataKey) -> None:
        if await self._plugin.decrypt_known_once(known.wrapped) != known.secret:
            message = f"{self._plugin} unwrapped a known key to other bytes"
            raise KmsUnavailableError(message, delay=_FAILED_DELAY)
