"""The rate ceiling of each KMS provider, in calls a second.

`rate` has the ceilings themselves, for one process and for all; the code that opens an engine hands one in for each
provider, made with the name and the rate from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.wrapped import Plugin


class CallPace(Protocol):
    """Limits the calls to one provider. `rate.local.LocalPace` and `rate.shared.SharedPace` are such."""

    async def take(self, objects: int) -> None:
        """Wait until the caller may make this many more calls."""


Paces = Callable[[Plugin], CallPace]
"""Returns the pace of a plugin; called once for each plugin of a process."""


def pace_name(plugin: Plugin) -> str:
    """Return a name for the shared bucket of a provider: two stanzas of one name and version share it."""
    return f"kms:{plugin.version}:{hashlib.sha256(plugin.name.encode()).hexdigest()[:16]}"


def ceiling(plugin: Plugin, settings: KmsSettings) -> float:
    """Return the provider's calls a second over all processes; 0 = no ceiling."""
    return settings.v1_rate if plugin.version == "v1" else settings.v2_rate
