"""One watch over several key ranges, which resumes at its place after a stream ends or a server fails.

- A range resumes at the revision after the last one that was delivered whole, never at the revision in `created`.
- With fragments, a revision is whole at the answer that announces no further one; the reader holds it back until then.
- An answer without events (a progress notification) proves that nothing was written up to its revision.
- A stalled server returns no error: while a stream is silent, its endpoint has to answer a read every few seconds.
- The watch requests progress every few seconds, so that a quiet range keeps up with the store. One answer is for all
  ranges. etcd before 3.4.25 and 3.5.8 may send it before the events that it covers (etcd-io/etcd#15220): with these
  versions the reader accepts an answer only after five more answers, about ten seconds, without an event that it
  covers. It delivers events that arrive still later, unless the stream breaks first.

Not handled: a member that answers reads and has lost a watch.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import PermanentError, RequestRefusedError, TemporaryError, WorkerError
from kube_rewrap.worker.etcd import compat, messages
from kube_rewrap.worker.etcd.channel import Endpoint
from kube_rewrap.worker.etcd.errors import token_expired, translate
from kube_rewrap.worker.etcd.store import Item, Watched, WatchFrom

_rpc: Any = compat.load()[0]

_PUT = 0  # mvccpb.Event.EventType
_SILENT_SECONDS = 5.0
_PROGRESS_SECONDS = 2.0
_DOUBTED = 5
"""Progress answers that must follow one until it is accepted, with an etcd that may send it early: ten seconds."""
_ALL = -1  # the watch_id of an answer that is for every watch on its stream
_SOUND = {3: {4: 25, 5: 8}}
"""By major and minor version, the first patch that sends a progress answer after the events that it covers."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

Token = tuple[tuple[str, str], ...] | None


class Connections(Protocol):
    """The part of the client that a watch needs: its endpoints and its token."""

    def current(self) -> tuple[Endpoint, Token]:
        """Return the current endpoint, and the token for its calls."""

    def leave(self, endpoint: Endpoint) -> None:
        """Make the next endpoint the current one, unless another task has left this one already."""

    async def renew(self, token: Token) -> bool:
        """Get a new token, unless another task has replaced this one already; False if calls need no token."""

    async def probe(self, endpoint: Endpoint) -> None:
        """Send a small read to this endpoint. Raises AioRpcError when it does not answer in time."""

    async def version(self, endpoint: Endpoint) -> str:
        """Return the etcd version of this endpoint, "" when it does not answer."""


class _EndedError(Exception):
    """The server ended one of the watches; the message is its reason."""


@dataclass(slots=True)
class _Place:
    """The place of one range. `held` has the PUTs of a revision of which fragments are still missing."""

    next_revision: int
    held: list[Item]


class Reader:
    """Interprets the answers of one stream, in the order in which they arrive. No input or output."""

    def __init__(self, revisions: Sequence[int]) -> None:
        self._places = [_Place(revision, []) for revision in revisions]
        self.is_accepted = False
        """Whether etcd has accepted every watch; then earlier refusals no longer count."""
        self._expected: deque[int] = deque()
        self._indices: dict[int, int] = {}
        self._progress: deque[int] = deque()
        self.doubts: int | None = None
        """How many later progress answers must confirm one; None = not known yet."""

    @property
    def revisions(self) -> list[int]:
        """The next revision to deliver in each range."""
        return [place.next_revision for place in self._places]

    def expect(self, index: int) -> None:
        """Note that a watch on this range was requested: etcd answers in the order of the requests."""
        self._expected.append(index)

    def take(self, response: Any) -> Watched | None:
        """Return the delivery that an answer completes, None if none. Raises _EndedError when it ends a watch.

        An answer may be `created` and `canceled` at once; then its watch_id belongs to no watch.
        """
        if response.created:
            index = self._expected.popleft()
            if not response.canceled:
                self._indices[response.watch_id] = index
                self.is_accepted |= len(self._indices) == len(self._places)
                return None
        else:
            found = self._indices.get(response.watch_id)
            if found is None:
                return None
            index = found
        place = self._places[index]
        if response.canceled:
            self._indices.pop(response.watch_id, None)
            return self._cancelled(index, place, response)
        return self._advanced(index, place, response)

    def progressed(self, revision: int) -> list[Watched]:
        """Take a progress answer for all ranges; return the deliveries of the answer that it confirms, if any."""
        self._progress.append(revision)
        if len(self._progress) <= (self.doubts or 0):
            return []
        confirmed = self._progress.popleft()
        if self._expected or len(self._indices) < len(self._places):
            return []  # a watch does not exist yet, or has ended
        moved = []
        for index, place in enumerate(self._places):
            if place.next_revision <= confirmed and not place.held:
                place.next_revision = confirmed + 1
                moved.append(Watched(index, (), place.next_revision, revision))
        return moved

    def _cancelled(self, index: int, place: _Place, response: Any) -> Watched:
        if not response.compact_revision:
            raise _EndedError(response.cancel_reason or "no reason given")
        place.held.clear()
        place.next_revision = max(place.next_revision, response.compact_revision)
        compacted = place.next_revision
        return Watched(index, (), compacted, max(response.header.revision, compacted), compacted=compacted)

    def _advanced(self, index: int, place: _Place, response: Any) -> Watched | None:
        place.held += [messages.item_of(event.kv) for event in response.events if event.type == _PUT]
        # The header's revision may be ahead of the events: etcd sends a backlog in several answers.
        last = response.events[-1].kv.mod_revision if response.events else response.header.revision
        if response.events:
            # An event that arrives after a progress answer that covers it disproves that answer.
            self._progress = deque(revision for revision in self._progress if revision < last)
        if response.fragment:
            return None
        puts, place.held = tuple(place.held), []
        # A lagging member's revision may be lower than what another member has delivered already.
        place.next_revision = max(place.next_revision, last + 1)
        return Watched(index, puts, place.next_revision, max(response.header.revision, last))


async def follow(connections: Connections, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
    """See Store.watch."""
    revisions = [one.revision for one in ranges]
    pause = _FIRST_PAUSE
    refused = ""
    while True:
        endpoint, token = connections.current()
        reader = Reader(revisions)
        try:
            async with aclosing(_stream(connections, endpoint, token, ranges, reader)) as stream:
                async for watched in stream:
                    pause, refused = _FIRST_PAUSE, ""
                    revisions[watched.index] = watched.next_revision
                    yield watched
            error: WorkerError = TemporaryError("the server ended the stream")
        except _EndedError as ended:
            refused = "" if reader.is_accepted else refused
            # etcd 3.5 answers "permission denied" for an old token, too: the watch tries once more with a new one.
            error, refused = await _error_of(connections, token, str(ended), refused)
        except grpc.aio.AioRpcError as failure:
            code, details = failure.code(), failure.details() or ""
            error = translate(code, details)
            refused = "" if reader.is_accepted else refused
            if token_expired(code, details):
                error, refused = await _error_of(connections, token, details, refused)
        if isinstance(error, PermanentError):
            raise error
        connections.leave(endpoint)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        pause = min(_LONGEST_PAUSE, 2 * pause)


async def _error_of(connections: Connections, token: Token, because: str, refused: str) -> tuple[WorkerError, str]:
    """Return the error for a watch that etcd ended, and the refusal to remember until the next delivery, or ""."""
    is_refusal = "permission denied" in because or token_expired(grpc.StatusCode.UNKNOWN, because)
    if not is_refusal:
        return TemporaryError(f"etcd ended the watch: {because}"), refused
    if refused == because or not await _renewed(connections, token):
        return RequestRefusedError(f"etcd refused the watch: {because}; the user needs read on the registry"), because
    return TemporaryError(because), because


async def _renewed(connections: Connections, token: Token) -> bool:
    try:
        return await connections.renew(token)
    except TemporaryError:
        return True  # no endpoint answered: the next try shows it


async def _stream(
    connections: Connections, endpoint: Endpoint, token: Token, ranges: Sequence[WatchFrom], reader: Reader
) -> AsyncGenerator[Watched]:
    """Yield the deliveries of one stream until it ends. Raises AioRpcError and _EndedError."""
    requests: asyncio.Queue[Any] = asyncio.Queue()

    def ask(index: int) -> None:
        reader.expect(index)
        requests.put_nowait(_create(ranges[index], reader.revisions[index]))

    for index in range(len(ranges)):
        ask(index)
    call = endpoint.watch.Watch(_each(requests), metadata=token)
    reading: asyncio.Future[Any] = asyncio.ensure_future(call.read())
    asking = asyncio.create_task(_ask_for_progress(requests), name="progress")
    try:
        while True:
            await asyncio.wait({reading}, timeout=_SILENT_SECONDS)
            if not reading.done():
                await connections.probe(endpoint)
                continue
            response = reading.result()
            if response is grpc.aio.EOF:
                return
            for watched in await _completed(connections, endpoint, reader, response):
                if watched.compacted:
                    ask(watched.index)
                yield watched
            reading = asyncio.ensure_future(call.read())
    finally:
        asking.cancel()
        # Cancel the call first: cancelling only the read would leave the stream to the garbage collector.
        call.cancel()
        # After a failed call, its request iterator would wait on the queue for ever, one more after each broken stream.
        requests.put_nowait(None)
        await cancel_all(reading, asking)


async def _completed(connections: Connections, endpoint: Endpoint, reader: Reader, response: Any) -> list[Watched]:
    """Return the deliveries that an answer completes. Raises _EndedError when it ends a watch."""
    if response.watch_id == _ALL and not response.created and not response.canceled:
        if reader.doubts is None:
            reader.doubts = 0 if _is_sound(await connections.version(endpoint)) else _DOUBTED
        return reader.progressed(response.header.revision)
    watched = reader.take(response)
    return [] if watched is None else [watched]


async def _ask_for_progress(requests: asyncio.Queue[Any]) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        if requests.empty():
            requests.put_nowait(_rpc.WatchRequest(progress_request=_rpc.WatchProgressRequest()))


async def _each(requests: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Yield requests from the queue until None."""
    while (request := await requests.get()) is not None:
        yield request


def _is_sound(version: str) -> bool:
    """Return whether this etcd version sends a progress answer only after the events that it covers."""
    try:
        major, minor, patch = (int(part) for part in version.partition("-")[0].split("."))
    except ValueError:
        return False
    return (major, minor) > (3, 5) or patch >= _SOUND.get(major, {}).get(minor, patch + 1)


def _create(wanted: WatchFrom, revision: int) -> Any:
    create = _rpc.WatchCreateRequest(
        key=wanted.range.start,
        range_end=wanted.range.end,
        start_revision=revision,
        progress_notify=True,
        fragment=True,
    )
    return _rpc.WatchRequest(create_request=create)
