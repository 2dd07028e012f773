"""Inspects and proves backups, and finds the configuration that reads one. KMS plugins are asked by proofs only."""

from __future__ import annotations

from collections.abc import Sequence

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.backups.configuration import smallest_configuration
from kube_rewrap.scheduler.engine import BackupReport, open_data_keys, read_backup
from kube_rewrap.scheduler.registry.discovery import where_newer_ones_lie
from kube_rewrap.worker.backups.backup_file import open_backup
from kube_rewrap.worker.backups.paths import Paths
from kube_rewrap.worker.backups.snapshot import PASSES, Progress, open_snapshot
from kube_rewrap.worker.errors import BackupError


def bytes_to_read(file: str) -> int:
    """Return how many bytes `progress` counts for a file, at most. Raises SourceError for a path that names none."""
    with open_backup(file) as opened:
        return PASSES * opened.size


async def inspect_backup(
    file: str, settings: Settings, generation: Generation, progress: Progress = lambda _: None
) -> BackupReport:
    """Count the objects of a backup by key, as `status` does: values under KMS by the key that they name.

    Raises SourceError for a path that names no file, BackupError for a file that is damaged or no backup of etcd.
    """
    with open_snapshot(file, progress) as snapshot:
        return await read_backup(snapshot, _paths(settings, [generation]), [generation])


async def prove_backup(
    file: str, settings: Settings, generations: Sequence[Generation], progress: Progress = lambda _: None
) -> BackupReport:
    """Open every governed object of a backup with the keys of the configurations, the present one first.

    Values under KMS are opened through the plugins that the configurations name, as far as they answer. Raises as
    `inspect_backup`.
    """
    paths = _paths(settings, generations)
    with open_snapshot(file, progress) as snapshot:
        if not any(generation.kms_providers for generation in generations):
            return await read_backup(snapshot, paths, generations)
        async with open_data_keys(settings) as data_keys:
            return await read_backup(snapshot, paths, generations, data_keys)


async def configuration_for(
    found: BackupReport, settings: Settings, generations: Sequence[Generation], progress: Progress = lambda _: None
) -> bytes:
    """Return the smallest EncryptionConfiguration that reads a readable backup, checked by a proof with it alone.

    `found`: its proof by the same generations. Raises BackupError if the file changed meanwhile, or the
    configuration does not read the backup; and as `inspect_backup`.
    """
    needed = {tally.resource: [*tally.keys] for tally in found.newest.resources}
    content = smallest_configuration(needed, generations)
    try:
        alone = load_generation(content, "the configuration for the backup")
    except ConfigError as error:
        raise BackupError(f"{found.file}: kube-apiserver would refuse {error}") from None
    again = await prove_backup(found.file, settings, [alone], progress)
    if again.sha256 != found.sha256:
        raise BackupError(f"{found.file} changed while it was read")
    if not again.is_readable:
        raise BackupError(f"{found.file}: no single EncryptionConfiguration of the given keys reads it")
    return content


def _paths(settings: Settings, generations: Sequence[Generation]) -> Paths:
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    configurations = [generation.configuration for generation in generations]
    names = [GroupResource.parse(name) for one in configurations for name in one.resource_names()]
    return Paths(layout, configurations, tuple(where_newer_ones_lie(names, layout)))
