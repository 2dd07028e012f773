"""A child's end of the pipes to the `rewrap run` that started it. `scheduler/dispatch/processes.py` is the other end.

Each line is a JSON object. The parent sends a job (`job`, `number`); a new limit (`window`: the most swaps in flight of
this child, `sharers`: the number of children at work); `granted`, the number of a request that may go on; and, every
few seconds, an empty object. The child sends a job that ended, with its `error` if one stopped it; a `window` once no
more swaps are in flight; `take`, the number of a request for `objects` tokens of the ceiling `of`; and an empty object
when it is ready, and every few seconds.

A parent that ended ends the child's input. A parent that stands still sends nothing: the child stops before the lease
of its parent's lock on campaigns can end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TextIO

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.kms.pace import Paces, ceiling, pace_name
from kube_rewrap.worker.rate.local import LocalPace

_OBJECTS = "objects"
"""The name of the ceiling of objects a second; those of calls to KMS plugins are named by `pace_name`."""

ALIVE_SECONDS = 2.0
"""How often each side sends a sign of life."""

_SILENT_SECONDS = 8.0
"""Less than LEASE_SECONDS without the seconds between two renewals: a child stops before its parent's lock ends."""

_MOST_LINES = 1_000


class Parent:
    """See the module's docstring. Made by `open_parent`."""

    def __init__(self, lines: asyncio.StreamReader, answers: TextIO, sharers: int) -> None:
        self._lines = lines
        self._answers = answers
        self._orders: asyncio.Queue[Mapping[str, object] | None] = asyncio.Queue(_MOST_LINES)
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._is_gone = False
        self.sharers = sharers
        """The number of children that share the limits now."""
        self.is_silent = False
        """Whether the parent sent nothing for so long that it must be taken for stopped."""

    async def next_order(self) -> Mapping[str, object] | None:
        """Return the next job or window; None when the parent ended, or ended the input, or is silent."""
        return await self._orders.get()

    def tell(self, answer: Mapping[str, object]) -> None:
        """Send an answer."""
        tell(self._answers, answer)

    async def live(self) -> None:
        """Send a sign of life now, and every few seconds until cancelled."""
        while True:
            self.tell({})
            await asyncio.sleep(ALIVE_SECONDS)

    async def grant(self, name: str, objects: int) -> bool:
        """Wait until the parent grants this many tokens of a ceiling; returns False when the parent is gone."""
        if self._is_gone:
            return False
        number = next(self._numbers)
        granted = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell({"take": number, "of": name, "objects": objects})
        try:
            is_granted: bool = await granted
        finally:
            self._asked.pop(number, None)
        return is_granted

    async def read(self) -> None:
        """Read what the parent sends, until it is gone."""
        try:
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    line = await self._lines.readline()
                if not line:
                    break
                await self._receive(json.loads(line))
        except TimeoutError:
            self.is_silent = True
        finally:
            self._is_gone = True
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_result(False)
            await self._orders.put(None)

    async def _receive(self, order: Mapping[str, int]) -> None:
        if "granted" in order:
            asked = self._asked.get(order["granted"])
            if asked is not None and not asked.done():
                asked.set_result(True)
        elif order:
            self.sharers = order.get("sharers", self.sharers)
            await self._orders.put(order)


class ParentPace:
    """See Pace. A ceiling that the parent keeps for all its children; `rate` in objects a second, 0 = no ceiling."""

    def __init__(self, parent: Parent, name: str, rate: float) -> None:
        self._parent = parent
        self._name = name
        self._rate = rate
        self._alone = LocalPace(rate / parent.sharers)

    @property
    def most(self) -> int:
        """See Pace."""
        return LocalPace(self._rate / self._parent.sharers).most

    async def take(self, objects: int) -> None:
        """See Pace. Without the parent, what was begun is finished at this child's share of the rate."""
        if self._rate and not await self._parent.grant(self._name, objects):
            await self._alone.take(objects)


def paces_of(parent: Parent, settings: Settings) -> tuple[ParentPace, Paces]:
    """Return the ceiling of objects a second, and those of calls to KMS plugins, as the parent keeps them."""
    return (
        ParentPace(parent, _OBJECTS, settings.pace.rate),
        lambda plugin: ParentPace(parent, pace_name(plugin), ceiling(plugin, settings.kms)),
    )


def ceiling_named(name: str, settings: Settings) -> float:
    """Return a ceiling of `paces_of` by its name, 0 = no ceiling."""
    if name == _OBJECTS:
        return settings.pace.rate
    return settings.kms.v1_rate if name.startswith("kms:v1:") else settings.kms.v2_rate


@asynccontextmanager
async def open_parent(lines: asyncio.StreamReader, answers: TextIO, sharers: int) -> AsyncIterator[Parent]:
    """Yield the parent, whose lines are read while the block runs."""
    parent = Parent(lines, answers, sharers)
    reading = asyncio.create_task(parent.read(), name="the parent's orders")
    try:
        yield parent
    finally:
        await cancel_all(reading)


def tell(answers: TextIO, answer: Mapping[str, object]) -> None:
    """Write a line to the parent."""
    with suppress(BrokenPipeError):  # the parent ended; so does the input
        print(json.dumps(answer), file=answers, flush=True)
