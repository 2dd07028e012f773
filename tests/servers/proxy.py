"""A TCP proxy between a client and a server that does what networks do, at the moment the test says.

It can delay replies, cut connections, refuse new ones, and lose the reply to a request that the server has carried out:
the client cannot know whether its write happened. For the last it reads HTTP/2 frames, so it needs clear text.
It runs in a thread of its own; its methods return when what they ask for is in force.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.servers.http2 import Frame, FrameReader, client_frames, server_frames

_CONTROL_SECONDS = 30.0


@dataclass(eq=False, slots=True)
class _Link:
    """One client's connection and ours to the server for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    requests: FrameReader = field(default_factory=client_frames)
    replies: FrameReader = field(default_factory=server_frames)
    # The stream whose request held the marker of the swallowing in force.
    marked: int | None = None

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """A context manager; `endpoint` is the URL that stands for the server's."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the server's URL."""
        self._target = urlsplit(endpoint)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy to {endpoint}")
        self._server: asyncio.Server | None = None
        self._port = 0
        self._links: set[_Link] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._refusing = False
        self._marker: bytes | None = None
        self._times = 0
        self._swallowed = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"{self._target.scheme}://127.0.0.1:{self._port}"

    def pass_on(self) -> None:
        """Nothing is in force any more; connections stay."""
        self._control(self._reset)

    def delay_replies(self, seconds: float) -> None:
        """Every piece of a reply waits, one after another."""

        def act() -> None:
            self._delay = seconds

        self._control(act)

    def cut(self) -> None:
        """Ends every connection; new ones are taken."""
        self._control(self._cut_all)

    def refuse(self) -> None:
        """Ends every connection, and each new one as soon as it is made, until `pass_on`."""

        def act() -> None:
            self._refusing = True
            self._cut_all()

        self._control(act)

    def swallow_replies(self, to: bytes = b"", times: int = 1) -> None:
        """From now on requests reach the server and no reply comes back. When a whole reply was lost like that, every
        connection is cut; after so many times everything passes again.

        `to`: wait for the first request that holds these bytes (in one frame of at most 16 kB), and lose its reply.
        """

        def act() -> None:
            self._marker = to
            self._times = times
            self._swallowed.clear()

        self._control(act)

    def wait_until_swallowed(self, seconds: float = 60.0) -> None:
        """Raises TimeoutError where not all replies that were to be lost got lost by then."""
        if not self._swallowed.wait(seconds):
            raise TimeoutError(f"no reply was swallowed in {seconds} s, of {self._times} that were to be")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_CONTROL_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_CONTROL_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CONTROL_SECONDS)
            self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server:
            self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _control(self, act: Callable[[], None]) -> None:
        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CONTROL_SECONDS)

    def _reset(self) -> None:
        self._delay = 0.0
        self._refusing = False
        self._marker = None
        for link in self._links:
            link.marked = None

    def _cut_all(self) -> None:
        for link in self._links:
            link.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = self._loop.create_task(self._serve(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            await self._carry(link, reader, server_reader)
        finally:
            self._links.discard(link)
            link.cut()

    async def _carry(self, link: _Link, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        """Until one side ends."""
        ways = [
            asyncio.ensure_future(self._carry_requests(link, from_client)),
            asyncio.ensure_future(self._carry_replies(link, from_server)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            for frame in link.requests.feed(data):
                if self._marker and link.marked is None and self._marker in frame.payload:
                    link.marked = frame.stream
            link.server.write(data)
            await link.server.drain()

    async def _carry_replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            frames = link.replies.feed(data)
            if self._swallows(link):
                if any(self._completes(link, frame) for frame in frames):
                    self._lost_one()
                continue
            await asyncio.sleep(self._delay)
            link.client.write(data)
            await link.client.drain()

    def _swallows(self, link: _Link) -> bool:
        return self._marker == b"" or link.marked is not None

    def _completes(self, link: _Link, frame: Frame) -> bool:
        return frame.ends_stream and link.marked in {None, frame.stream}

    def _lost_one(self) -> None:
        self._cut_all()
        self._times -= 1
        if self._times == 0:
            self._marker = None
            self._swallowed.set()
