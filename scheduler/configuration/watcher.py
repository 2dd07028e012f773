"""Follows the EncryptionConfiguration's file: what is in force is the last good content that stood still.

1. Something stirred in a directory that decides what the file's name leads to, or it is time for a look anyway.
   Directories, because renames and kubelet's swap of the link `..data` show there and not on the file; a look
   anyway, because some mounts tell nothing.
2. The file is read until two reads, one debounce apart, agree: editors write more than once.
3. What can't be read, or kube-apiserver would refuse, is logged with all its faults, once, and changes nothing.
4. Another generation than the last good one goes to whoever asked.

Files are read and checked in a thread: a large one must not keep leases from being renewed.
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

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import ConfigError, Fault, SourceError
from kube_rewrap.config.library_errors import kind_of
from kube_rewrap.config.settings.schema import ServiceSettings

_log = structlog.get_logger()

_MOST_READS = 60
"""Reads of a file that never stands still, until that is said: half a minute with the default debounce."""

_MOST_LINKS = 40
"""Links that Linux follows in one path (path_resolution(7))."""

_Sample = SecretBytes | tuple[Fault, ...]
"""What one read gave: the file's bytes, or why there are none."""

_Places = dict[Path, tuple[int, int]]
"""Directories, each with device and inode: a directory made anew under its old name is another one."""


class ConfigurationWatch:
    """See the module's docstring. One instance serves one `generations()`."""

    def __init__(self, file: str, settings: ServiceSettings, *, allow_readable: bool = False) -> None:
        """`allow_readable` accepts a file that group or others can use."""
        self._file = file
        self._poll = settings.poll
        self._debounce = settings.debounce
        self._allow_readable = allow_readable
        self._stirred = asyncio.Event()
        self._judged: _Sample | None = None
        self._good: str | None = None
        self._is_bad = False
        self._unwatched = ""

    async def generations(self) -> AsyncGenerator[Generation]:
        """Yield the first good generation, then every other one that replaces the last good one; never ends.

        Close it (`contextlib.aclosing`) or cancel whoever waits for it: then the watch on the directories has
        ended too.
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
        """Return when something stirred, at the latest when it is time for a look anyway."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                await self._stirred.wait()
        # No await between this and the read that follows: what stirs from here on is seen by that or wakes again.
        self._stirred.clear()

    async def _look(self) -> Generation | None:
        """Return the generation in the file if it is good and another than the last good one."""
        sample = await self._settled()
        if sample == self._judged:
            return None
        self._judged = sample
        judged = await asyncio.to_thread(_judge, sample, self._file)
        if not isinstance(judged, Generation):
            self._reject(judged)
            return None
        return self._accept(judged)

    async def _settled(self) -> _Sample:
        """Read until two reads agree."""
        sample = await asyncio.to_thread(_sample, self._file, allow_readable=self._allow_readable)
        if sample == self._judged:
            return sample
        for _ in range(_MOST_READS):
            await asyncio.sleep(self._debounce)
            before, sample = sample, await asyncio.to_thread(_sample, self._file, allow_readable=self._allow_readable)
            if sample == before:
                return sample
        return (Fault("", "it never stands still", "write another file and rename it to this name"),)

    def _reject(self, faults: tuple[Fault, ...]) -> None:
        self._is_bad = True
        _log.error(
            "configuration.rejected",
            file=self._file,
            generation=self._good,
            errors=[{"path": fault.path, "message": fault.message, "remedy": fault.remedy} for fault in faults],
            because="the last good one stays in force" if self._good else "there was no good one so far",
        )

    def _accept(self, generation: Generation) -> Generation | None:
        """Put a good generation into force; None where it is in force already."""
        was_bad, self._is_bad = self._is_bad, False
        is_new = generation.hash != self._good
        self._good = generation.hash
        if is_new or was_bad:
            because = "it is new" if is_new else "the file is back to what is in force"
            _log.info("configuration.accepted", file=self._file, generation=generation.hash, because=because)
        return generation if is_new else None

    async def _feel(self, stop: asyncio.Event) -> None:
        """Say when something stirs, until `stop`. Where that can't be felt, looking anyway goes on without it."""
        while not stop.is_set():
            try:
                await self._follow(stop)
            except Exception as error:  # noqa: BLE001 - whatever ails the watch, the file is still polled
                self._tell_unwatched(kind_of(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._poll)

    async def _follow(self, stop: asyncio.Event) -> None:
        """Watch the directories as they are now; return when the name leads through others, or on `stop`."""
        places = await asyncio.to_thread(_places, self._file)
        # Runs when awatch first waits, which it does with its watches in place: nothing falls between them and a look.
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
            self._unwatched = ""
            if changes:
                self._stirred.set()
            if await asyncio.to_thread(_places, self._file) != places:
                return

    def _tell_unwatched(self, because: str) -> None:
        if because != self._unwatched:
            self._unwatched = because
            _log.warning("configuration.unwatched", file=self._file, because=because)


def _sample(file: str, *, allow_readable: bool) -> _Sample:
    try:
        return SecretBytes(read(file, allow_readable=allow_readable))
    except SourceError as error:
        return error.faults


def _judge(sample: _Sample, file: str) -> Generation | tuple[Fault, ...]:
    if not isinstance(sample, SecretBytes):
        return sample
    try:
        return load_generation(sample.reveal(), file)
    except ConfigError as error:
        return error.faults


def _places(file: str) -> _Places:
    """Return the directories whose entries decide what the name leads to. Raises OSError without the file's own."""
    path = Path(file).absolute()
    found = {path.parent: _identity(path.parent)}
    for place in (*(link.parent for link in _links(path)), Path(os.path.realpath(path)).parent):
        # Where a link leads nowhere, the link's own directory is all that there is.
        with suppress(OSError):
            found[place] = _identity(place)
    return found


def _links(path: Path) -> list[Path]:
    """Return every link on the way from a name to its file, by its path."""
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
