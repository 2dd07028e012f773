"""Looks at everything that a rotation needs before it begins; `beginning.py` judges. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kube_rewrap.config.editing.edit import entries_naming
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import Converged, not_converged
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.rotation.driver import ConfigurationFile
from kube_rewrap.scheduler.rotation.preflight import Ground, Scale
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.rotations import Rotations


class Preparation:
    """See the module's docstring. `file` None: it is not this process that replaces it."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        rotations: Rotations,
        converged: Converged,
        file: ConfigurationFile | None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._rotations = rotations
        self._converged = converged
        self._file = file

    async def look(self, rotation: Rotation) -> Ground:
        """Look at what is quickly seen: all but what takes a scan."""
        unconverged = await not_converged(self._converged, rotation.file)
        other = await self._rotations.unfinished()
        campaigns = tuple([one.value for one in await self._service.unfinished()])
        file = () if self._file is None or rotation.by_hand else await asyncio.to_thread(self._file.faults)
        return Ground(other.value if other else None, campaigns, unconverged, file)

    async def scan(self, rotation: Rotation) -> Scale:
        """Count what would be rewritten. Raises RefusedError where there is no registry, CompactedError."""
        store = self._service.engine.store
        _, found = await self._service.inventory()
        configuration = self._service.generation.configuration
        tallies = [
            one for one in found.resources if _is_of(configuration, GroupResource.parse(one.resource), rotation.entries)
        ]
        size = sum(under.bytes for one in tallies for under in one.keys.values())
        room = judge_space(await store.members(), await store.alarms(), size, self._settings.space)
        return Scale(sum(one.objects for one in tallies), sum(one.unreadable for one in tallies), room.refusal or "")


def _is_of(configuration: EncryptionConfiguration, resource: GroupResource, entries: Iterable[int]) -> bool:
    """Whether one of these entries governs the resource (see EncryptionConfiguration.providers_for)."""
    for name in (resource, GroupResource("*", resource.group), ANY):
        governing = entries_naming(configuration, [name])
        if governing:
            return bool(set(governing) & set(entries))
    return False
