"""Does a campaign's jobs in child processes, for `rewrap run --processes N`. `worker/parent.py` is their side."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import structlog

from kube_rewrap.scheduler.dispatch.limits import Limits
from kube_rewrap.scheduler.engine import ALIVE_SECONDS, Job
from kube_rewrap.worker import errors
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import WorkerError

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
"""After its input ended, a child finishes the swaps in flight, which etcd answers within its call time-out."""

_SILENT_SECONDS = 30.0
"""A child sends a sign of life every few seconds; one that stands still is killed, and replaced. Longer than the lease
of its claims."""

_MOST_GRANTS = 1_000
"""How many requests for tokens of one child may wait: each of its batches has one."""

_MOST_LOSSES = 5
"""How often a child may end without an answer in between; then the run ends, too."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """How to start a child process: a command, and an environment.

    Two words are added to the command: the number of children that share the run's limits, and the campaign's id.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


class ChildWorker:
    """See Worker and Sharer. Runs a child process for one campaign, and starts another if it dies.

    The jobs of a dead child stay claimed until its lease expires; then the loop offers them again. `shares` is the
    number of workers of the campaign.
    """

    def __init__(self, command: ChildCommand, campaign: str, limits: Limits, shares: int = 1) -> None:
        self._command = command
        self._limits = limits
        self._campaign = campaign
        self._sharers = shares
        self.window = 0
        """See Sharer."""
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._losses = 0
        self._is_stopped = False

    async def do(self, job: Job, number: int) -> None:
        """See Worker. Returns when the child died; raises WorkerError when children die again and again."""
        async with self._limits.shared(self):
            child = await self._running()
            if child is None:
                return
            answer = await child.ask(job, number)
        if answer is not None:
            self._losses = 0
            if "error" in answer:
                raise _error(answer)

    async def resize(self, window: int, sharers: int) -> None:
        """See Sharer. A child that starts later gets the window with its first job."""
        is_smaller = window < self.window
        self.window, self._sharers = window, sharers
        if self._child is not None:
            await self._child.resize(window, sharers, waits=is_smaller)

    async def stop(self) -> None:
        """See Worker. Kills the child if it does not end in time."""
        self._is_stopped = True
        async with self._starting:
            if self._child is not None:
                await self._child.stop()

    async def _running(self) -> _Child | None:
        """Return the running child, a new one if need be; None after `stop`."""
        async with self._starting:
            if self._is_stopped:
                return None
            while self._child is None or self._child.is_dead:
                if self._child is not None:
                    self._losses += 1
                    code = self._child.exit_code
                    if self._losses > _MOST_LOSSES:
                        raise WorkerError(f"child processes end again and again, the last one with exit code {code}")
                    _log.warning("child.ended", campaign=self._campaign, because=f"it ended with exit code {code}")
                self._child = await _start(self._command, self._sharers, self._campaign, self._limits)
                await self._child.resize(self.window, self._sharers, waits=False)
            return self._child


async def _start(command: ChildCommand, shares: int, campaign: str, limits: Limits) -> _Child:
    """Start a child and wait until it is ready, or a signal has ended it.

    Raises WorkerError if it is not in time, and what it failed for.
    """
    process = await asyncio.create_subprocess_exec(
        *command.command,
        str(shares),
        campaign,
        stdin=PIPE,
        stdout=PIPE,
        env=dict(command.environment),
        start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which then ends the child's input
    )
    child = _Child(process, limits)
    first: Mapping[str, object] | None = None
    is_late = False
    try:
        async with asyncio.timeout(_START_SECONDS):
            first = await child.ready
    except TimeoutError:
        is_late = True
    except BaseException:
        process.kill()
        raise
    if first is None or "error" in first:
        await child.stop()
        if first is None and (child.exit_code or 0) < 0 and not is_late:
            return child
        if first is not None:
            raise _error(first)
        raise WorkerError(f"a child process did not start: it ended with exit code {child.exit_code}; see its error")
    _log.info("child.started", campaign=campaign, child=process.pid)
    return child


class _Child:
    """A running child process. `ready` becomes its first answer, None if it ends before."""

    def __init__(self, process: Process, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        self._process = process
        self._limits = limits
        self.ready: asyncio.Future[Mapping[str, object] | None] = loop.create_future()
        self._asked: dict[tuple[str, int], asyncio.Future[Mapping[str, object] | None]] = {}
        self._resized: dict[int, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._grants: set[asyncio.Task[None]] = set()
        self._living = loop.create_task(self._live(), name=f"child-{process.pid}-alive")
        self._reading = loop.create_task(self._read(), name=f"child-{process.pid}")

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return self._reading.done()

    @property
    def exit_code(self) -> int | None:
        """The process' exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    async def ask(self, job: Job, number: int) -> Mapping[str, object] | None:
        """Have the child do a job; returns its answer, None if it ended without one."""
        if self.is_dead or self._process.stdin is None:
            return None
        answer: asyncio.Future[Mapping[str, object] | None] = asyncio.get_running_loop().create_future()
        self._asked[job.value, number] = answer
        self._send({"job": job.value, "number": number})
        return await answer

    async def resize(self, window: int, sharers: int, *, waits: bool) -> None:
        """Tell the child its window; with `waits`, return when it has no more swaps in flight, or has ended."""
        if self.is_dead:
            return
        resized: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resized[window].append(resized)  # a child that is slow may have an earlier, equal window to answer
        self._send({"window": window, "sharers": sharers})
        if waits:
            await resized

    def _send(self, order: Mapping[str, object]) -> None:
        """Write a line. Orders are few and short, and a child that does not read is killed: no need to drain."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            with suppress(ConnectionError):  # `_read` notices the end
                self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _live(self) -> None:
        while True:
            self._send({})
            await asyncio.sleep(ALIVE_SECONDS)

    async def _grant(self, number: int, name: str, objects: int) -> None:
        try:
            await self._limits.take(name, objects)
        except (ValueError, OverflowError):
            self._process.kill()
        else:
            self._send({"granted": number})

    async def stop(self) -> None:
        """End the child's input, and wait for its end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.shield(self._reading)
        except TimeoutError:
            self._process.kill()
            await self._reading

    async def _read(self) -> None:
        """Hand out the answers until the process ends.

        Kills it when it is silent, answers what can't be read, or does not end after its last answer.
        """
        try:
            while (answer := await self._next()) is not None:
                self._receive(answer)
        except (TimeoutError, ValueError, KeyError, RecursionError):
            self._process.kill()
        await cancel_all(self._living, *self._grants)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if not self.ready.done():
            self.ready.set_result(None)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)
        for resized in chain.from_iterable(self._resized.values()):
            if not resized.done():
                resized.set_result(None)

    def _receive(self, answer: Mapping[str, object]) -> None:
        """Act on an answer. Raises KeyError and ValueError for one that makes no sense."""
        if "take" in answer:
            number, objects = int(str(answer["take"])), int(str(answer["objects"]))
            if objects < 1 or len(self._grants) >= _MOST_GRANTS:
                raise ValueError("no objects, or too many requests")
            task = asyncio.get_running_loop().create_task(self._grant(number, str(answer["of"]), objects))
            self._grants.add(task)
            task.add_done_callback(self._grants.discard)
        elif "window" in answer:
            waiting = self._resized.get(int(str(answer["window"])))
            if waiting and not (resized := waiting.popleft()).done():
                resized.set_result(None)
        elif not self.ready.done():
            self.ready.set_result(answer)
        elif "job" in answer:
            asked = self._asked.pop((str(answer["job"]), int(str(answer["number"]))), None)
            if asked is not None and not asked.done():
                asked.set_result(answer)

    async def _next(self) -> Mapping[str, object] | None:
        """Return the next answer, None at the end. Raises TimeoutError, or ValueError for anything else."""
        if self._process.stdout is None:
            return None
        async with asyncio.timeout(_SILENT_SECONDS if self.ready.done() else None):  # the start has a limit of its own
            line = await self._process.stdout.readline()
        if not line:
            return None
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("no answer")  # noqa: TRY004 - as for a line that is no JSON
        return answer


def _error(answer: Mapping[str, object]) -> WorkerError:
    """Return the error that stopped a job, as the child raised it."""
    kind, because = getattr(errors, str(answer["error"]), None), str(answer.get("because"))
    return kind(because) if isinstance(kind, type) and issubclass(kind, WorkerError) else WorkerError(because)
