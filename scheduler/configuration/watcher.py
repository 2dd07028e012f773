"""Follows the EncryptionConfiguration's file: the last valid content that two reads agreed on is in force.

1. Look at the file when a directory that decides which file its path names has changed, and after each poll interval
   anyway. Directories, because renames and kubelet's swap of the link `..data` show there and not on the file; polls,
   because some mounts send no events.
2. Read the file until two reads, one debounce apart, agree: editors write more than once.
3. Log a file that can't be read or used (`judge_file`), with all its faults, once; it changes nothing.
4. Yield a generation that differs from the last good one.

Reads and checks run in a thread: a large file must not delay the renewal of leases.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import structlog
from watchfiles import awatch

from kube_rewrap.config.encryption.generation import Generation, judge_file
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import Fault, SourceError
from kube_rewrap.config.library_errors import kind_of
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import ServiceSettings

_log = structlog.get_logger()

_MOST_READS = 60
"""Reads of a file that keeps changing, before that is logged: half a minute with the default debounce."""

_MOST_LINKS = 40
"""Links that Linux follows in one path (path_resolution(7))."""

_Sample = SecretBytes | tuple[Fault, ...]
"""The result of one read: the file's bytes, or its faults."""

_Places = dict[Path, tuple[int, int]]
"""Directories, each with device and inode: a directory that was removed and created again is another one."""


class ConfigurationWatch:
    """See the module's docstring. One instance serves one `generations()`."""

    def __init__(self, file: str, settings: ServiceSettings, layout: Layout, *, allow_readable: bool = False) -> None:
        """`allow_readable` accepts a file that group or others can use."""
        self._file = file
        self._layout = layout
        self._poll = settings.poll
        self._debounce = settings.debounce
        self._allow_readable = allow_readable
        self._stirred = asyncio.Event()
        self._judged: _Sample | None = None
        self._good: str | None = None
        self._is_bad = False
        self._unwatched = Repetition()

    async def generations(self) -> AsyncGenerator[Generation]:
        """Yield the first good generation, then each one that replaces the last good one; never ends.

        Close it (`contextlib.aclosing`), or cancel the task that awaits it; either ends the watch on the directories,
        too.
        """
        stop = asyncio.Event()
        stirring = asyncio.create_task(self._feel(stop), name="configuration-watch")
        try:
            while True:
                generation = await self._look()
                if generation is not None:
                    yield generation
                await self._pause()
        finally:
            stop.set()
            await stirring

    async def _pause(self) -> None:
        """Return when a directory changed, at the latest after the poll interval."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                await self._stirred.wait()
        # No await before the read that follows: it sees a later change, or the change ends the next pause.
        self._stirred.clear()

    async def _look(self) -> Generation | None:
        """Return the generation in the file if it is good and differs from the last good one."""
        sample = await self._stable_sample()
        if sample == self._judged:
            return None
        self._judged = sample
        judged = await asyncio.to_thread(self._judge, sample)
        if not isinstance(judged, Generation):
            self._reject(judged)
            return None
        return self._accept(judged)

    def _judge(self, sample: _Sample) -> Generation | tuple[Fault, ...]:
        return judge_file(sample.reveal(), self._file, self._layout) if isinstance(sample, SecretBytes) else sample

    async def _stable_sample(self) -> _Sample:
        """Read until two reads agree, or the first one equals the content judged last."""
        sample = await asyncio.to_thread(_sample, self._file, allow_readable=self._allow_readable)
        if sample == self._judged:
            return sample
        for _ in range(_MOST_READS):
            await asyncio.sleep(self._debounce)
            before, sample = sample, await asyncio.to_thread(_sample, self._file, allow_readable=self._allow_readable)
            if sample == before:
                return sample
        return (Fault("", "it keeps changing", "write another file and rename it to this name"),)

    def _reject(self, faults: tuple[Fault, ...]) -> None:
        self._is_bad = True
        _log.error(
            "configuration.rejected",
            file=self._file,
            file_hash=self._good,
            errors=[fault.to_json() for fault in faults],
            because="the last good one stays in force" if self._good else "there was no good one so far",
        )

    def _accept(self, generation: Generation) -> Generation | None:
        """Put a good generation into force; None if it is in force already."""
        was_bad, self._is_bad = self._is_bad, False
        is_new = generation.file_hash != self._good
        self._good = generation.file_hash
        if is_new or was_bad:
            because = "it is new" if is_new else "the file has the content in force again"
            _log.info("configuration.accepted", file=self._file, file_hash=self._good, because=because)
        return generation if is_new else None

    async def _feel(self, stop: asyncio.Event) -> None:
        """Signal each change of a directory, until `stop`; where the watch fails, polling continues without it."""
        while not stop.is_set():
            try:
                await self._follow(stop)
            except Exception as error:  # noqa: BLE001 - if the watch fails, the file is still polled
                self._tell_unwatched(kind_of(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._poll)

    async def _follow(self, stop: asyncio.Event) -> None:
        """Watch the present directories; return when the path leads through others, or on `stop`."""
        places = await asyncio.to_thread(_places, self._file)
        # Runs when awatch first waits, with its watches in place: no change falls between them and the next look.
        asyncio.get_running_loop().call_soon(self._stirred.set)
        notices = awatch(
            *places,
            watch_filter=None,
            recursive=False,
            stop_event=stop,
            rust_timeout=max(1, int(self._poll * 1000)),
            yield_on_timeout=True,
        )
        async for changes in notices:
            self._unwatched.end()
            if changes:
                self._stirred.set()
            if await asyncio.to_thread(_places, self._file) != places:
                return

    def _tell_unwatched(self, because: str) -> None:
        if self._unwatched.begins(because):
            _log.warning("configuration.unwatched", file=self._file, because=because)


def _sample(file: str, *, allow_readable: bool) -> _Sample:
    try:
        return SecretBytes(read(file, allow_readable=allow_readable))
    except SourceError as error:
        return error.faults


def _places(file: str) -> _Places:
    """Return the directories that decide which file the path names. Raises OSError if its parent is missing."""
    path = Path(file).absolute()
    found = {path.parent: _identity(path.parent)}
    for place in (*(link.parent for link in _links(path)), Path(os.path.realpath(path)).parent):
        # A dangling link has no directory but its own.
        with suppress(OSError):
            found[place] = _identity(place)
    return found


def _links(path: Path) -> list[Path]:
    """Return the path of every symbolic link between a name and its file."""
    found: list[Path] = []
    ways = [path]
    while ways:
        way = ways.pop()
        for part in (way, *way.parents):
            if len(found) < _MOST_LINKS and part not in found and part.is_symlink():
                found.append(part)
                ways.append(part.parent / part.readlink() / way.relative_to(part))
    return found


def _identity(directory: Path) -> tuple[int, int]:
    state = directory.stat()
    return state.st_dev, state.st_ino
