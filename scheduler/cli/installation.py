"""Are we ourselves? `config`, `worker` and `scheduler` are names of other distributions too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from config.errors import Fault, SettingsError

_PACKAGES = ("config", "worker", "scheduler")


def require_own_packages() -> None:
    """Refuse to run when the three packages don't lie in one directory. Raises SettingsError."""
    homes = {name: _home(name) for name in _PACKAGES}
    if len(set(homes.values())) > 1:
        where = ", ".join(f"{name} in {home}" for name, home in homes.items())
        fault = Fault("installation", where, "install kube-rewrap into a virtual environment of its own")
        raise SettingsError("installation", (fault,))


def _home(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
