"""A cluster under one generation of the configuration: its settings, its etcd, its keys and its audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import Engine, open_engine
from kube_rewrap.scheduler.registry.spans import Spans
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.budget import has_budget
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.verdict import KeyRef

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Cluster:
    """See the module's docstring. Made by `open_cluster`. `actor` is this process' name in the audit log."""

    settings: Settings
    layout: Layout
    engine: Engine
    actor: str = "rewrap run"

    @property
    def generation(self) -> Generation:
        """The generation of the configuration that this process holds."""
        return self.engine.generation

    @property
    def audit(self) -> AuditLog:
        """The audit log, to which this process appends as `actor`."""
        return AuditLog(self.engine.store, self.engine.keyspace, self.actor)

    def campaigns(self, *guards: Expect) -> Campaigns:
        """Return the campaigns on record. `guards` fence every write of them."""
        return Campaigns(self.engine.store, self.engine.keyspace, guards)

    @property
    def spans(self) -> Spans:
        """The key ranges that a watch over everything governed has to cover."""
        return Spans(self.generation.configuration, self.layout)

    @property
    def chains(self) -> tuple[tuple[str, tuple[KeyRef, ...]], ...]:
        """Each configured name with its keys, in the file's order; marks a name that governs nothing."""
        names = self.generation.configuration.resource_names()
        marked = {name: f"{name}, which governs nothing" if self.is_idle(name) else name for name in names}
        return tuple((marked[name], self.engine.chains[name].described) for name in names)

    @property
    def limited_keys(self) -> list[KeyRef]:
        """The configured keys that have a write budget.

        Includes the keys of entries that govern nothing now: before a restore, they may have encrypted objects that are
        gone since.
        """
        names = self.generation.configuration.resource_names()
        keys = (key for name in names for key in self.engine.chains[name].keys)
        return [key for key in keys if has_budget(key)]

    def is_idle(self, name: str) -> bool:
        """Whether a name governs nothing in any configuration."""
        return self.layout.why_idle(GroupResource.parse(name)) is not None


@asynccontextmanager
async def open_cluster(settings: Settings, generation: Generation, actor: str = "rewrap run") -> AsyncIterator[Cluster]:
    """Connect to etcd and yield the cluster. Raises UnavailableError, ConfigError."""
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    for name in generation.configuration.resource_names():
        idle = layout.why_idle(GroupResource.parse(name))
        if idle is not None:
            _log.warning("configuration.idle_name", resource=name, because=idle[0])
    async with open_engine(settings, generation) as engine:
        yield Cluster(settings, layout, engine, actor)


@asynccontextmanager
async def open_cluster_to_look(settings: Settings, generation: Generation) -> AsyncIterator[Cluster]:
    """Yield the cluster as `open_cluster` does, for a command that writes no object.

    Where a KMS plugin names no KEK, the KEKs on record are those of the generation: those that the leader has in force.
    """
    async with open_cluster(settings, generation) as cluster:
        targets = await _recorded_targets(cluster)
        if not targets:
            yield cluster
            return
    async with open_cluster(settings, generation.aimed(targets)) as cluster:
        yield cluster


async def _recorded_targets(cluster: Cluster) -> Mapping[str, str]:
    """Return the KEKs on record of a generation of which the plugins name none; {} unless all are on record."""
    writers = cluster.generation.kms_writers
    if cluster.generation.targets or not writers:
        return {}
    stored = await Keks(cluster.engine.store, cluster.engine.keyspace).all()
    known = {one.value.provider: one.value.target for one in stored}
    targets = {writer.name: known[writer.name] for writer in writers if writer.name in known}
    return targets if len(targets) == len(writers) else {}
