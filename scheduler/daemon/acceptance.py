"""Accepts a generation: compares it with the one on record, and asks for the campaign that its changes take.

Without a change the cluster is compared with it all the same (`campaigns/resync.py`): things happen while no scheduler
runs. A file of the same meaning takes over the unfinished campaign. An old copy of the file is refused.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from kube_rewrap.scheduler.campaigns.controller import Office
from kube_rewrap.scheduler.configuration.detect import detect
from kube_rewrap.scheduler.rotation.transition import is_way_back
from kube_rewrap.worker.errors import OutdatedError
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations, settled
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored

_log = structlog.get_logger()


class Acceptance:
    """See the module's docstring. `before`: the hash of the generation that this leader followed until now, or ""."""

    def __init__(self, office: Office, now: GenerationRecord, before: str) -> None:
        self._office = office
        self._now = now
        self._before = before
        engine = office.service.engine
        self._generations = Generations(engine.store, engine.keyspace, [office.guard])
        self._rotations = Rotations(engine.store, engine.keyspace)

    async def current(self) -> Stored[History] | None:
        """Return the generations on record, None before the first. Raises OutdatedError for an old copy of the file.

        A scheduler on another node that comes to lead may hold a copy of the file that nobody renewed. For a leader
        that followed the newer one until now, the file that goes back is a change as any other. So is the removal of
        a key that a rotation added and nobody used.
        """
        stored = await self._generations.load()
        if stored is None or self._now.hash not in stored.value.former:
            return stored
        newer = stored.value.generation
        rotations = await self._rotations.all()
        if self._before == newer.hash or (rotations and is_way_back(rotations[-1].value, newer, self._now)):
            return stored
        raise OutdatedError(
            f"the file is {self._now.hash}, which was in force before {newer.hash} took its place: it is taken for an "
            "old copy, and nothing is written under it. Bring it up to date; to really go back to it, change anything "
            "in it, a comment will do"
        )

    async def accept(self, stored: Stored[History] | None) -> None:
        """Compare the generation with the one on record, and ask for a campaign if its changes take one.

        A name that governs nothing comes and goes without a change: nothing is stored by it.
        """
        now, former = self._now, stored.value.generation if stored else None
        changes = [change for change in detect(former, now) if not self._office.service.is_idle(change.resource)]
        for change in changes:
            level = _log.warning if change.danger else _log.info
            level("configuration.changed", generation=now.hash, **change.log_context())
        wanted = [change for change in changes if change.needs_campaign]
        if wanted:
            reason = f"{len(wanted)} changes, the first: {wanted[0].because}"
            await self._office.inbox.ask_for_change(stored.revision if stored else 0, reason)
            self._office.schedule.checked()
        if former == now:
            return
        if former is not None and not changes:
            await self._adopt(former.hash)
        # Recorded last: a crash before this compares again, and asks by the same name.
        late = settled(stored, [one.value for one in await self._office.campaigns.all()], now)
        fresh = stored.holding(stored.value.followed_by(now, late)) if stored else Stored(History(now, settled=late))
        await self._generations.save(fresh)
        await self._office.service.audit.append("configuration.accepted", "", generation=now.hash, changes=len(changes))

    async def _adopt(self, before: str) -> None:
        """Let the unfinished campaign of a file with the same meaning go on under this one."""
        for stored in await self._office.campaigns.unfinished():
            if stored.value.generation != before:
                continue
            adopted = await self._office.campaigns.change(
                stored.value.id, lambda campaign: replace(campaign, generation=self._now.hash)
            )
            if adopted is not None:
                because = "the file changed and its meaning did not"
                _log.info("campaign.adopted", **adopted.log_context(), because=because)
