"""The records of requests: no request takes effect twice, however often its message arrives."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from kube_rewrap.worker.errors import RecordChangedError, RecordError, RecordUnclearError, RefusedError, TemporaryError
from kube_rewrap.worker.etcd.store import Delete, Put
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.request import Request, RequestKind, RequestState
from kube_rewrap.worker.records.table import Stored, Table

KEPT = 200
"""Decided requests that `forget_old` keeps, so that a late copy of a message finds its request decided."""

_MOST = 1_000
"""Requests on record from which on operators' requests are refused: a flood of the queue must not fill etcd."""

_ATTEMPTS = 5


class Requests(Table[Request]):
    """All requests of one state prefix."""

    _kind = Request

    def _key(self, value: Request) -> bytes:
        return self._keyspace.request(value.id)

    async def get(self, name: str) -> Stored[Request] | None:
        """Return one request, None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.request(name))

    async def all(self) -> list[Stored[Request]]:
        """Return all readable requests, the oldest first."""
        return (await self.all_or_why())[0]

    async def all_or_why(self) -> tuple[list[Stored[Request]], list[tuple[str, str]]]:
        """Return what `all` does, and the name of each unreadable request with the reason."""
        found, others = await self._sorted(self._keyspace.requests)
        return sorted(found, key=lambda stored: (stored.value.asked_at, stored.value.id)), others

    async def require_room(self) -> None:
        """Raise RefusedError when `_MOST` requests or more are on record."""
        count = await self._store.count(self._keyspace.requests)
        if count >= _MOST:
            raise RefusedError(f"{count} requests are on record; the scheduler must decide some of them first")

    async def submit(self, request: Request) -> bool:
        """Record a request; False when a readable one of that name exists, and nothing was written.

        Replaces an unreadable record of that name. Raises RecordUnclearError when it may have been recorded.
        """
        try:
            await self.save(Stored(request, await self._revision_of_unreadable(self._key(request))))
        except RecordUnclearError:
            raise
        except RecordChangedError:
            return False
        return True

    async def _revision_of_unreadable(self, key: bytes) -> int:
        """Return the mod_revision of the record if it is unreadable, else 0."""
        item = await self._store.get(key)
        if item is None:
            return 0
        try:
            self._read(item)
        except RecordError as error:
            record.note_unreadable(item, error)
            return item.mod_revision
        return 0

    async def forget_old(self) -> None:
        """Delete all decided requests but the newest `KEPT`."""
        decided = [one.value for one in await self.all() if one.value.state is not RequestState.WAITING]
        for request in decided[:-KEPT]:
            await self._commit(Delete.of_key(self._key(request)))

    async def control(self, kind: RequestKind, target: str, name: str) -> Request:
        """Pause, resume or cancel the campaign, or the waiting request, `target`; once for each `name`.

        `name` is the control request's own; one transaction changes the campaign and records that request. Returns
        the request with its decision. Raises RefusedError when too many requests are on record.
        """
        known = await self.get(name)
        if known is not None:
            return known.value
        await self.require_room()
        asked = Request(id=name, kind=kind, asked_at=datetime.now(UTC).isoformat(), campaign=target)
        waiting = await self.get(target)
        if waiting is not None and waiting.value.campaign:
            asked = replace(asked, campaign=waiting.value.campaign)
        elif waiting is not None and waiting.value.state is RequestState.WAITING:
            return await self._change_waiting(waiting, asked)
        return await self._change(asked)

    async def _change_waiting(self, waiting: Stored[Request], asked: Request) -> Request:
        """Apply an operator's control request to a request that has started no campaign yet."""
        request, because = waiting.value, f"{asked.kind.value} by an operator, before it began"
        match asked.kind:
            case RequestKind.CANCEL:
                request = request.decided(RequestState.CANCELLED, because)
            case RequestKind.PAUSE | RequestKind.RESUME:
                request = replace(request, options=replace(request.options, paused=asked.kind is RequestKind.PAUSE))
            case RequestKind.START:
                return await self._noted(asked.decided(RequestState.REFUSED, "a request of this name exists"))
        await self.save(waiting.holding(request))
        return await self._noted(asked.decided(RequestState.ACCEPTED, because))

    async def _change(self, asked: Request) -> Request:
        done = asked.decided(RequestState.ACCEPTED, f"{asked.kind.value} by an operator")
        # In one transaction with the campaign: a second copy of the message finds the request, and changes nothing.
        note = Put(self._key(asked), encode(done.to_json()))
        campaigns = Campaigns(self._store, self._keyspace)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for _ in range(_ATTEMPTS):
            try:
                changed = await campaigns.change_once(asked.campaign, lambda one: controlled(one, asked.kind, at), note)
            except ControlRefusedError as refusal:
                return await self._noted(asked.decided(RequestState.REFUSED, str(refusal)))
            except RecordUnclearError:
                # Not repeated when it was applied: another operator may have changed the campaign since.
                if await self.get(asked.id) is not None:
                    return done
                continue
            if changed is None:
                return await self._noted(asked.decided(RequestState.REFUSED, "there is no campaign of that name"))
            return done
        raise TemporaryError(f"etcd never confirmed the change of the campaign {asked.campaign}", delay=1.0)

    async def _noted(self, request: Request) -> Request:
        await self.submit(request)
        return request


class ControlRefusedError(ValueError):
    """The campaign's state does not allow the requested control."""


def controlled(campaign: Campaign, kind: RequestKind, at: str) -> Campaign:
    """Return the campaign after an operator's pause, resume or cancel, requested at the ISO time `at`.

    Raises ControlRefusedError.
    """
    if campaign.state.is_end:
        raise ControlRefusedError(f"the campaign has ended: it is {campaign.state.value}")
    match kind:
        case RequestKind.PAUSE:
            return campaign.paused(Pause.OPERATOR, "paused by an operator")
        case RequestKind.RESUME:
            if campaign.state is not CampaignState.PAUSED:
                raise ControlRefusedError(f"the campaign is not paused: it is {campaign.state.value}")
            resumed = campaign.paused(
                Pause.SCHEDULER, "resumed by an operator; the scheduler checks whether it may continue"
            )
            if campaign.paused_for is Pause.QUARANTINE:
                return replace(resumed, quarantine_limit=replace(campaign.quarantine_limit, most=None))
            return resumed
        case RequestKind.CANCEL:
            moved = campaign.moved(
                CampaignState.CANCELLED, "cancelled by an operator; rewritten objects stay rewritten"
            )
            return replace(moved, ended_at=at)
        case RequestKind.START:
            raise ControlRefusedError("a campaign is started by a request of its own")
