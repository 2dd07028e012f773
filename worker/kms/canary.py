"""Proof that a plugin works, before a failure is blamed on a wrapped key.

gRPC's codes do not tell a damaged source from throttling or a disabled KEK. So the plugin wraps and unwraps random
bytes of this process, and unwraps a source that it unwrapped before under the same key id.

Not handled: a KEK that is disabled, and under which this process never opened a source, looks like damage.
"""

from __future__ import annotations

import asyncio
import secrets

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsUnavailableError
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

    async def require(self, since: float, witness: DataKey | None) -> None:
        """Return if the plugin works at a time after `since`, by the loop's clock.

        Raises KmsUnavailableError if it does not, KmsRefusedError if it is not allowed to.
        """
        key_id = None if witness is None else witness.wrapped.key_id
        async with self._turn:
            if self._passed is not None and self._passed[0] == key_id and self._passed[1] >= since:
                return
            began = asyncio.get_running_loop().time()
            secret = SecretBytes(secrets.token_bytes(_BYTES))
            await self._require_opens(DataKey(await self._plugin.encrypt(secret), secret))
            if witness is not None:
                await self._require_opens(witness)
            self._passed = (key_id, began)

    async def _require_opens(self, known: DataKey) -> None:
        if await self._plugin.decrypt_known(known.wrapped) != known.secret:
            message = f"{self._plugin} unwrapped a known key to other bytes"
            raise KmsUnavailableError(message, delay=_FAILED_DELAY)
