"""Plans a rotation from a request, and gathers the facts by which `preflight.py` judges it. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from kube_rewrap.config.editing.edit import entries_naming
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import ANY, GroupResource, Layout
from kube_rewrap.config.settings.schema import KeyspaceSettings, SpaceSettings
from kube_rewrap.scheduler.apiservers.probe import ConvergenceProbe
from kube_rewrap.scheduler.campaigns.changes import find_changes
from kube_rewrap.scheduler.configuration.detect import why_refused
from kube_rewrap.scheduler.engine import try_plugin
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.preflight import PreflightFacts, Workload
from kube_rewrap.scheduler.rotation.request import RotationRequest, plan_rotation
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError, KmsUnavailableError
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations


def require_request(raw: bytes, file: str, request: RotationRequest, keyspace: KeyspaceSettings) -> None:
    """Raise SettingsError for a request that the file shows can't be met, before a KMS plugin of the file is asked.

    One that hangs takes some 10 seconds. Not handled: names that are taken by what is on record (`Preparation.plan`).
    """
    layout = Layout.from_texts(keyspace.etcd_prefix, keyspace.paths)

    def is_idle(name: str) -> bool:
        return layout.why_idle(GroupResource.parse(name)) is not None

    plan_rotation(raw, file, request, (), datetime.now(UTC), is_idle=is_idle)


class Preparation:
    """See the module's docstring."""

    def __init__(
        self, space: SpaceSettings, cluster: Cluster, apiservers: ConvergenceProbe, file: ConfigurationFile
    ) -> None:
        self._space = space
        self._cluster = cluster
        self._apiservers = apiservers
        self._file = file
        self._rotations = Rotations(cluster.engine.store, cluster.engine.keyspace)

    async def plan(self, request: RotationRequest) -> Rotation:
        """Return a rotation that is not recorded yet. Raises SettingsError, and ConfigError for an unusable file.

        Its key gets a name that no key on record had: the budgets hold the names of all keys.
        """
        raw = await asyncio.to_thread(self._file.read)
        rotations = [stored.value for stored in await self._rotations.all()]
        taken = {rotation.key_name for rotation in rotations}
        taken.update(name for budget in (await self._cluster.engine.ledger.all()).values() for name in budget.names)
        # An aborted rotation's provider never wrote. Of one that is in no rotation, the KEK is on record if it wrote.
        done = [rotation for rotation in rotations if rotation.stanza and rotation.step is RotationStep.DONE]
        kms_taken = {key.name for rotation in done for key in rotation.new_keys}
        keks = Keks(self._cluster.engine.store, self._cluster.engine.keyspace)
        kms_taken.update(stored.value.provider for stored in await keks.all())
        is_idle, now = self._cluster.is_idle, datetime.now(UTC)
        return plan_rotation(raw, self._file.path, request, taken, now, is_idle=is_idle, kms_taken=kms_taken)

    async def gather(self, rotation: Rotation, *, replaces_file: bool) -> PreflightFacts:
        """Gather the facts that take no scan. `replaces_file`: this process would edit the file."""
        convergence = await self._apiservers.probe(rotation.file)
        other = await self._rotations.unfinished()
        campaigns = tuple([stored.value for stored in await self._cluster.campaigns().unfinished()])
        file = await asyncio.to_thread(self._file.faults) if replaces_file and not rotation.by_hand else ()
        facts = PreflightFacts(convergence, other.value if other else None, campaigns, file)
        return await self._with_plugin(facts) if rotation.stanza else facts

    async def _with_plugin(self, facts: PreflightFacts) -> PreflightFacts:
        """Add what the plugin of the KMS provider to add did when it was tried."""
        provider, _ = await asyncio.to_thread(self._file.stanza)
        try:
            return replace(facts, growth=await try_plugin(self._cluster.settings, provider))
        except (KmsUnavailableError, KmsRefusedError, KmsTargetError) as error:
            return replace(facts, plugin=str(error))

    async def with_workload(self, facts: PreflightFacts, rotation: Rotation) -> PreflightFacts:
        """Add the counts of a scan of everything. Raises RefusedError where there is no registry, CompactedError."""
        store = self._cluster.engine.store
        _, found = await scan_cluster(self._cluster, peeks=True)
        configuration = self._cluster.generation.configuration
        tallies = [
            one for one in found.resources if _is_of(configuration, GroupResource.parse(one.resource), rotation.entries)
        ]
        size = sum(under.bytes for one in tallies for under in one.keys.values())
        objects, unreadable = sum(one.objects for one in tallies), sum(one.unreadable for one in tallies)
        size += objects * facts.growth
        room = judge_space(await store.members(), await store.alarms(), size, self._space)
        refused = why_refused(await find_changes(self._cluster, found), self._cluster.generation.file_hash)
        return replace(facts, workload=Workload(objects, unreadable, room.refusal or ""), refused=refused)


def _is_of(configuration: EncryptionConfiguration, resource: GroupResource, entries: Iterable[int]) -> bool:
    """Whether one of these entries governs the resource (see EncryptionConfiguration.providers_for)."""
    for name in (resource, GroupResource("*", resource.group), ANY):
        governing = entries_naming(configuration, [name])
        if governing:
            return bool(set(governing) & set(entries))
    return False
