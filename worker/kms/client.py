"""The client of one KMS plugin: calls, their deadline, and the checks of every answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.secret import SecretBytes
    from kube_rewrap.worker.wrapped import Plugin, WrappedKey


@dataclass(frozen=True, slots=True)
class Status:
    """What a healthy plugin answered. `key_id` names the KEK that it wraps with; "" in v1, which names none."""

    key_id: str


class KmsClient:
    """Make it inside the event loop that uses it; one for each plugin, process and event loop."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    async def status(self) -> Status:
        """Return the plugin's status, checked."""
        raise NotImplementedError

    async def decrypt(self, wrapped: WrappedKey) -> SecretBytes:
        """Return what the plugin unwraps the key to."""
        raise NotImplementedError

    async def encrypt(self, secret: SecretBytes) -> WrappedKey:
        """Return the secret, wrapped by the plugin, checked against the limits of Kubernetes."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection."""
