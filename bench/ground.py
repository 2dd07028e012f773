"""The fixture of every benchmark: a throw-away etcd, and files of EncryptionConfigurations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kube_rewrap.cli.commands.run import CHILD
from kube_rewrap.cli.demo.registry import configuration_of
from kube_rewrap.cli.demo.throwaway import find_etcd, throwaway_etcd
from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.provider import Provider
from kube_rewrap.config.settings.schema import BudgetSettings, EtcdSettings, PaceSettings, Settings
from kube_rewrap.scheduler.dispatch.processes import ChildCommand
from kube_rewrap.worker.collector import spare_the_imports

RESOURCES = ("secrets", "configmaps")


@dataclass(frozen=True, slots=True)
class Ground:
    """A throw-away etcd: the settings to connect to it, and a directory for files."""

    settings: Settings
    directory: Path

    def generation(self, *providers: Provider) -> Generation:
        """Return the generation whose primary is the first provider."""
        return load_generation(configuration_of(providers, RESOURCES).encode(), "bench")

    def configuration_file(self, *providers: Provider) -> Path:
        """Write the same configuration to a file for the command line, and return its path."""
        path = self.directory / "encryption.json"
        path.touch(mode=0o600)
        path.write_text(configuration_of(providers, RESOURCES))
        return path

    def children(self, count: int, *providers: Provider) -> list[ChildCommand]:
        """Return how to start child processes of a run under the same configuration."""
        environment = {
            **os.environ,
            "REWRAP_ENDPOINTS": self.settings.etcd.endpoints[0],
            "REWRAP_RATE": "0",
            "REWRAP_GCM_LIMIT": str(self.settings.budget.gcm_limit),
            "REWRAP_ENCRYPTION_CONFIG": str(self.configuration_file(*providers)),
            "REWRAP_LOG_LEVEL": "warning",
        }
        return [ChildCommand(CHILD, environment)] * count


@contextmanager
def ground() -> Iterator[Ground]:
    """Start etcd on an empty directory; stop it at the end."""
    spare_the_imports()  # as every command does
    with (
        tempfile.TemporaryDirectory(prefix="kube-rewrap-bench-") as name,
        throwaway_etcd(find_etcd(None), Path(name)) as url,
    ):
        settings = Settings(
            etcd=EtcdSettings(endpoints=(url,)),
            pace=PaceSettings(rate=0),
            budget=BudgetSettings(gcm_limit=2**32),
        )
        yield Ground(replace(settings, space=replace(settings.space, quota_bytes=8 * 2**30)), Path(name))
