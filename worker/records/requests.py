"""Requests to the scheduler on record: each is met once, however often its message arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kube_rewrap.worker.errors import RecordChangedError, RecordError, RecordUnclearError, RefusedError
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.codec import damaged, decode, encode, require_place
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import Request, RequestKind, RequestState

KEPT = 200
"""Requests that were decided on and are kept: a message that comes late is known by its request."""

_MOST = 1_000
"""Requests in all, past which no operator's is taken: whoever floods the queue shall not fill etcd."""


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as read, with the mod_revision that the next write must find."""

    request: Request
    revision: int


class Requests:
    """The requests of one state prefix."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    async def get(self, name: str) -> StoredRequest | None:
        """Return one request, None where there is none."""
        key = self._keyspace.request(name)
        found = await record.read(self._store, key)
        return None if found is None else StoredRequest(self._request(key, found[0]), found[1])

    async def all(self) -> list[StoredRequest]:
        """Return all requests that can be read, the oldest first."""
        found = [one async for one in record.read_each(self._store, self._keyspace.requests, self._stored)]
        return sorted(found, key=lambda stored: (stored.request.asked_at, stored.request.id))

    async def unreadable(self) -> list[tuple[str, str]]:
        """Return the names of the requests that can't be read, and why."""
        return await record.unreadable(self._store, self._keyspace.requests, self._stored)

    def _stored(self, item: Item, fields: dict[str, object]) -> StoredRequest:
        return StoredRequest(self._request(item.key, fields), item.mod_revision)

    def _request(self, key: bytes, fields: dict[str, object]) -> Request:
        try:
            request = Request.from_json(fields)
        except ValueError as error:
            raise damaged(key, error) from None
        require_place(key, self._keyspace.request(request.id))
        return request

    async def require_room(self) -> None:
        """Raise RefusedError when there are so many requests that something must be wrong."""
        count = await self._store.count(self._keyspace.requests)
        if count >= _MOST:
            raise RefusedError(f"{count} requests are on record; the scheduler has to deal with them first")

    async def submit(self, request: Request) -> bool:
        """Record a request; False when one of that name is there already, and nothing changed.

        A record of that name that can't be read is none: it makes room.
        """
        key = self._keyspace.request(request.id)
        try:
            await record.write(self._store, key, request.to_json(), await self._unreadable(key), guards=self._guards)
        except RecordUnclearError:
            raise
        except RecordChangedError:
            return False
        return True

    async def _unreadable(self, key: bytes) -> int:
        """Return the mod_revision of a record that can't be read, 0 where there is none such."""
        item = await self._store.get(key)
        if item is None:
            return 0
        try:
            self._stored(item, decode(item.key, item.value))
        except RecordError as error:
            record.note_unreadable(item, error)
            return item.mod_revision
        return 0

    async def decide(self, stored: StoredRequest, decided: Request) -> StoredRequest:
        """Write what became of a request. Raises FencedError."""
        key = self._keyspace.request(decided.id)
        return StoredRequest(
            decided,
            await record.write(self._store, key, decided.to_json(), stored.revision, guards=self._guards),
        )

    async def forget_old(self) -> None:
        """Delete requests that were decided on but the newest `KEPT`."""
        decided = [stored for stored in await self.all() if stored.request.state is not RequestState.WAITING]
        for stored in decided[:-KEPT]:
            await self._store.commit(self._guards, [Delete.of_key(self._keyspace.request(stored.request.id))])

    async def control(self, kind: RequestKind, target: str, name: str) -> Request:
        """Pause, resume or cancel a campaign, or cancel a request that waits; once for each `name`.

        The campaign and the note that it was done are one transaction. Returns the request with its end.
        Raises RefusedError when there are too many requests.
        """
        known = await self.get(name)
        if known is not None:
            return known.request
        await self.require_room()
        asked = Request(name, kind, datetime.now(UTC).isoformat(), campaign=target)
        waiting = await self.get(target)
        if waiting is not None and waiting.request.campaign:
            asked = replace(asked, campaign=waiting.request.campaign)
        elif waiting is not None and waiting.request.state is RequestState.WAITING:
            return await self._change_waiting(waiting, asked)
        return await self._change(asked)

    async def _change_waiting(self, waiting: StoredRequest, asked: Request) -> Request:
        """Apply an operator's word to a request that has led to no campaign yet."""
        request, because = waiting.request, f"{asked.kind.value} by an operator, before it began"
        match asked.kind:
            case RequestKind.CANCEL:
                request = request.decided(RequestState.CANCELLED, because)
            case RequestKind.PAUSE | RequestKind.RESUME:
                request = replace(request, wish=replace(request.wish, paused=asked.kind is RequestKind.PAUSE))
            case RequestKind.START:
                return await self._noted(asked.decided(RequestState.REFUSED, "it has been asked for already"))
        await self.decide(waiting, request)
        return await self._noted(asked.decided(RequestState.ACCEPTED, because))

    async def _change(self, asked: Request) -> Request:
        done = asked.decided(RequestState.ACCEPTED, f"{asked.kind.value} by an operator")
        # Written with the campaign: a message that comes twice finds it and does nothing.
        note = Put(self._keyspace.request(asked.id), encode(done.to_json()))
        try:
            campaigns = Campaigns(self._store, self._keyspace)
            changed = await campaigns.change(asked.campaign, lambda campaign: controlled(campaign, asked.kind), note)
        except ControlRefusedError as refusal:
            return await self._noted(asked.decided(RequestState.REFUSED, str(refusal)))
        if changed is None:
            return await self._noted(asked.decided(RequestState.REFUSED, "there is no campaign of that name"))
        return done

    async def _noted(self, request: Request) -> Request:
        await self.submit(request)
        return request


class ControlRefusedError(ValueError):
    """A campaign is in no state for what is asked."""


def controlled(campaign: Campaign, kind: RequestKind) -> Campaign:
    """Return the campaign after an operator's word. Raises ControlRefusedError."""
    if campaign.state.is_end:
        raise ControlRefusedError(f"the campaign has ended: it is {campaign.state.value}")
    match kind:
        case RequestKind.PAUSE:
            return campaign.paused(Pause.OPERATOR, "paused by an operator")
        case RequestKind.RESUME:
            if campaign.state is not CampaignState.PAUSED:
                raise ControlRefusedError(f"the campaign is not paused: it is {campaign.state.value}")
            resumed = campaign.paused(
                Pause.SCHEDULER, "resumed by an operator; the scheduler looks whether it may go on"
            )
            if campaign.paused_for is Pause.QUARANTINE:
                return replace(resumed, growth=replace(campaign.growth, most=None))
            return resumed
        case RequestKind.CANCEL:
            moved = campaign.moved(CampaignState.CANCELLED, "cancelled by an operator; what was rewritten stays")
            return replace(moved, ended_at=datetime.now(UTC).isoformat(timespec="seconds"))
        case RequestKind.START:
            raise ControlRefusedError("a campaign is started by a request of its own")
