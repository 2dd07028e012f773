"""One watch over several key ranges, that goes on where it was through whatever happens to streams and servers.

- A range goes on at the revision behind the last one that was delivered whole, never at what `created` says.
- With fragments a revision is whole at the answer that has none to follow; until then it is held back.
- An answer without events (a progress notification) proves that nothing happened up to its revision.
- A stalled server never errors: while a stream is silent, its endpoint has to answer a read now and then.
- Progress is asked for every few seconds, so that a quiet range keeps up with the store. One answer is for all
  ranges. etcd before 3.4.25 and 3.5.8 may give it before it has sent the events that it covers
  (etcd-io/etcd#15220): there an answer is believed only when ten seconds have passed, in which other ones and no
  event that it covers have come. What comes later all the same is delivered, unless the stream breaks before.

Not handled: a member that answers reads and has forgotten a watch.
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
"""Answers about progress that have to come after one until it is believed, where etcd may be early: ten seconds."""
_ALL = -1  # the watch_id of an answer that is for every watch on its stream
_SOUND = {3: {4: 25, 5: 8}}
"""From which patch of a minor version on an answer about progress comes behind the events that it covers."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

Token = tuple[tuple[str, str], ...] | None


class Lines(Protocol):
    """What a watch needs of the client whose channels it uses."""

    def line(self) -> tuple[Endpoint, Token]:
        """Return the endpoint that is in use, and the token that it is called with."""

    def leave(self, endpoint: Endpoint) -> None:
        """Go on with another endpoint than this one."""

    async def renew(self, token: Token) -> bool:
        """Get a new token unless there is one already; False where calls need none."""

    async def probe(self, endpoint: Endpoint) -> None:
        """Read something small from this endpoint. Raises AioRpcError when it does not answer in time."""

    async def version(self, endpoint: Endpoint) -> str:
        """Return the etcd version of this endpoint, "" when it does not say."""


class _EndedError(Exception):
    """The server ended one of the watches, in its own words."""


@dataclass(slots=True)
class _Place:
    """How far one range came. `held` is what arrived of a revision that is not whole yet."""

    next_revision: int
    held: list[Item]


class Reader:
    """What the answers of one stream mean, in the order in which they arrive. No input or output."""

    def __init__(self, revisions: Sequence[int]) -> None:
        self._places = [_Place(revision, []) for revision in revisions]
        self.is_accepted = False
        """Whether etcd has taken every watch: whatever it refused before, it refuses no more."""
        self._expected: deque[int] = deque()
        self._indices: dict[int, int] = {}
        self._progress: deque[int] = deque()
        self.doubts: int | None = None
        """How many answers about progress have to confirm one; None = it is not known yet."""

    @property
    def revisions(self) -> list[int]:
        """The first revision of each range that is yet to be delivered."""
        return [place.next_revision for place in self._places]

    def expect(self, index: int) -> None:
        """Note that a watch on this range was asked for: etcd answers in the order of the requests."""
        self._expected.append(index)

    def take(self, response: Any) -> Watched | None:
        """Return what an answer completes, if anything. Raises _EndedError when it ends a watch.

        An answer may be `created` and `canceled` at once, and its id is nobody's then.
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
        return self._grown(index, place, response)

    def progressed(self, revision: int) -> list[Watched]:
        """Return what an answer about all ranges completes, if it is believed, or one before it."""
        self._progress.append(revision)
        if len(self._progress) <= (self.doubts or 0):
            return []
        believed = self._progress.popleft()
        if self._expected or len(self._indices) < len(self._places):
            return []  # some watch does not exist yet, or any more
        moved = []
        for index, place in enumerate(self._places):
            if place.next_revision <= believed and not place.held:
                place.next_revision = believed + 1
                moved.append(Watched(index, (), place.next_revision, revision))
        return moved

    def _cancelled(self, index: int, place: _Place, response: Any) -> Watched:
        if not response.compact_revision:
            raise _EndedError(response.cancel_reason or "no reason given")
        place.held.clear()
        place.next_revision = max(place.next_revision, response.compact_revision)
        compacted = place.next_revision
        return Watched(index, (), compacted, max(response.header.revision, compacted), compacted=compacted)

    def _grown(self, index: int, place: _Place, response: Any) -> Watched | None:
        place.held += [messages.item_of(event.kv) for event in response.events if event.type == _PUT]
        # With events the header may be ahead of them: etcd sends a backlog in several answers.
        last = response.events[-1].kv.mod_revision if response.events else response.header.revision
        if response.events:
            # What comes behind an answer that covers it disproves that answer.
            self._progress = deque(revision for revision in self._progress if revision < last)
        if response.fragment:
            return None
        puts, place.held = tuple(place.held), []
        # A member that lags behind may say less than another one has delivered already.
        place.next_revision = max(place.next_revision, last + 1)
        return Watched(index, puts, place.next_revision, max(response.header.revision, last))


async def follow(lines: Lines, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
    """See Store.watch."""
    revisions = [one.revision for one in ranges]
    pause = _FIRST_PAUSE
    refused = ""
    while True:
        endpoint, token = lines.line()
        reader = Reader(revisions)
        try:
            async with aclosing(_stream(lines, endpoint, token, ranges, reader)) as stream:
                async for watched in stream:
                    pause, refused = _FIRST_PAUSE, ""
                    revisions[watched.index] = watched.next_revision
                    yield watched
            error: WorkerError = TemporaryError("the server ended the stream")
        except _EndedError as ended:
            refused = "" if reader.is_accepted else refused
            # etcd 3.5 says "permission denied" for an old token, too: it gets one chance with a new one.
            error, refused = await _judge(lines, token, str(ended), refused)
        except grpc.aio.AioRpcError as failure:
            code, details = failure.code(), failure.details() or ""
            error = translate(code, details)
            refused = "" if reader.is_accepted else refused
            if token_expired(code, details):
                error, refused = await _judge(lines, token, details, refused)
        if isinstance(error, PermanentError):
            raise error
        lines.leave(endpoint)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        pause = min(_LONGEST_PAUSE, 2 * pause)


async def _judge(lines: Lines, token: Token, because: str, refused: str) -> tuple[WorkerError, str]:
    """Return what a watch that etcd ended means, and what it was refused for since the last delivery."""
    is_refusal = "permission denied" in because or token_expired(grpc.StatusCode.UNKNOWN, because)
    if not is_refusal:
        return TemporaryError(f"etcd ended the watch: {because}"), refused
    if refused == because or not await _renewed(lines, token):
        return RequestRefusedError(f"etcd refused the watch: {because}; the user needs read on the registry"), because
    return TemporaryError(because), because


async def _renewed(lines: Lines, token: Token) -> bool:
    try:
        return await lines.renew(token)
    except TemporaryError:
        return True  # nobody answered: the next try tells


async def _stream(
    lines: Lines, endpoint: Endpoint, token: Token, ranges: Sequence[WatchFrom], reader: Reader
) -> AsyncGenerator[Watched]:
    """Yield what one stream delivers until it ends. Raises AioRpcError and _EndedError."""
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
                await lines.probe(endpoint)
                continue
            response = reading.result()
            if response is grpc.aio.EOF:
                return
            for watched in await _completed(lines, endpoint, reader, response):
                if watched.compacted:
                    ask(watched.index)
                yield watched
            reading = asyncio.ensure_future(call.read())
    finally:
        asking.cancel()
        # The call first: cancelling only the read would leave the stream to the garbage collector.
        call.cancel()
        # A call that has failed by itself leaves its reader of requests waiting for ever, one more with each cut.
        requests.put_nowait(None)
        reading.cancel()
        await asyncio.gather(reading, asking, return_exceptions=True)


async def _completed(lines: Lines, endpoint: Endpoint, reader: Reader, response: Any) -> list[Watched]:
    """Return what an answer completes. Raises _EndedError when it ends a watch."""
    if response.watch_id == _ALL and not response.created and not response.canceled:
        if reader.doubts is None:
            reader.doubts = 0 if _is_sound(await lines.version(endpoint)) else _DOUBTED
        return reader.progressed(response.header.revision)
    watched = reader.take(response)
    return [] if watched is None else [watched]


async def _ask_for_progress(requests: asyncio.Queue[Any]) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        if requests.empty():
            requests.put_nowait(_rpc.WatchRequest(progress_request=_rpc.WatchProgressRequest()))


async def _each(requests: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """Yield requests until None comes."""
    while (request := await requests.get()) is not None:
        yield request


def _is_sound(version: str) -> bool:
    """Tell whether an answer about progress covers only events that were sent before it."""
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
