"""Accepts a generation: compares it with the one on record, and requests the campaign that its changes need.

If the file changed and its meaning did not, the unfinished campaign continues under the new generation. An old copy of
the file is refused, and so is a file in which a KMS provider turned into another version under its name. Not handled:
objects that became stale while no scheduler ran; `upkeep/full_check.py` finds them.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from kube_rewrap.scheduler.campaigns.controller import LeaderContext
from kube_rewrap.scheduler.configuration.detect import detect, why_refused
from kube_rewrap.scheduler.rotation.transition import is_way_back
from kube_rewrap.worker.errors import OutdatedError
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations, late_plaintext
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored

_log = structlog.get_logger()


class Acceptance:
    """See the module's docstring. `before`: the hash of the generation that this leader accepted last, "" = none."""

    def __init__(self, leader: LeaderContext, now: GenerationRecord, before: str) -> None:
        self._leader = leader
        self._now = now
        self._before = before
        engine = leader.cluster.engine
        self._generations = Generations(engine.store, engine.keyspace, [leader.guard])
        self._rotations = Rotations(engine.store, engine.keyspace)

    async def current(self) -> Stored[History] | None:
        """Return the generations on record, None before the first. Raises OutdatedError for an old copy of the file.

        The file on another control-plane node may not have been updated before its scheduler is elected. Two rollbacks
        to a former generation are accepted: one that this leader observed, and the removal of the unused key that a
        withdrawn rotation had added.
        """
        stored = await self._generations.load()
        if stored is None:
            return stored
        newer = stored.value.generation
        is_same_file = self._now.file == newer.file
        former = {self._now.hash} if is_same_file else {self._now.hash, self._now.file}
        if former.isdisjoint(stored.value.former):
            return stored
        if is_same_file:
            raise OutdatedError(
                f"the generation {self._now.hash} has the file in force with a KEK that {newer.hash} has replaced: the "
                "record of the KEK (<state-prefix>/v1/keks) went back, and nothing is written under it. Let the KMS "
                "plugin name a new key id, or change anything in the file, for example a comment"
            )
        rotations = await self._rotations.all()
        if self._before == newer.hash or (rotations and is_way_back(rotations[-1].value, newer, self._now)):
            return stored
        raise OutdatedError(
            f"the file is {self._now.file}, which {newer.file} has replaced: this scheduler takes it for an old copy, "
            "and writes nothing under it. Update the file; to return to this configuration on purpose, change anything "
            "in the file, for example a comment"
        )

    async def accept(self, stored: Stored[History] | None) -> None:
        """Compare the generation with the one on record, record it, and request a campaign if its changes need one.

        A name that governs no etcd path is left out of the comparison: no object is stored under it. Raises
        OutdatedError, and records nothing, when a KMS provider turned into another version under its name.
        """
        now, former = self._now, stored.value.generation if stored else None
        changes = [change for change in detect(former, now) if not self._leader.cluster.is_idle(change.resource)]
        for change in changes:
            level = _log.warning if change.is_warning else _log.info
            level("configuration.changed", generation=now.hash, **change.log_context())
        if because := why_refused(changes, now.file):
            raise OutdatedError(because)
        wanted = [change for change in changes if change.needs_campaign]
        if wanted:
            more = f" (the first of {len(wanted)} changes)" if len(wanted) > 1 else ""
            reason = f"the configuration changed: {wanted[0].because}{more}"
            await self._leader.backlog.ask_for_change(stored.revision if stored else 0, reason)
            self._leader.schedule.checked()
        if former == now:
            return
        if former is not None and not changes:
            await self._adopt(former.hash)
        # Recorded last: after a crash before this, the next leader compares again, and its request has the same id.
        late = late_plaintext(stored, [one.value for one in await self._leader.campaigns.all()], now)
        fresh = (
            stored.holding(stored.value.followed_by(now, late)) if stored else Stored(History(now, late_plaintext=late))
        )
        await self._generations.save(fresh)
        await self._leader.cluster.audit.append("configuration.recorded", "", generation=now.hash, changes=len(changes))

    async def _adopt(self, before: str) -> None:
        """Continue the unfinished campaign of a generation with the same meaning under this one."""
        for stored in await self._leader.campaigns.unfinished():
            if stored.value.generation != before:
                continue
            adopted = await self._leader.campaigns.change(
                stored.value.id, lambda campaign: replace(campaign, generation=self._now.hash)
            )
            if adopted is not None:
                because = "the file changed and its meaning did not"
                _log.info("campaign.adopted", **adopted.log_context(), because=because)
