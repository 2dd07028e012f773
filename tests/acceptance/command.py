"""The command line as a process: what it printed, how it ended, and what to do to it while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.acceptance.forked import ForkedProcess, fork
from tests.servers.etcd import EtcdCluster

ROOT = Path(__file__).parents[2]
REWRAP = (str(Path(sys.executable).parent / "rewrap"),)

_POLL_SECONDS = 0.01
_numbers = count()


@dataclass(frozen=True)
class Ended:
    """A command that ended. A code below zero is the signal that killed it."""

    code: int
    stdout: str
    stderr: str

    @cached_property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything beside it is an error."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def error(self) -> dict[str, Any]:
        """The error in the one JSON document."""
        assert list(self.document) == ["error"], self.stdout
        error: dict[str, Any] = self.document["error"]
        return error

    @property
    def events(self) -> list[dict[str, Any]]:
        return log_events(self.stderr)


def log_events(stderr: str) -> list[dict[str, Any]]:
    """The lines of the log, and what is left of stderr goes unread."""
    lines = stderr.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


class Running:
    """A command at work. Leaving the `with` block kills it if it still runs."""

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess, stdout: Path, stderr: Path) -> None:
        self._process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._stderr.read_text()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_for_event(self, name: str, times: int = 1, seconds: float = 60.0) -> None:
        """Returns when it logged the event so often. Raises AssertionError when it ended before, or in time."""

        def is_logged() -> bool:
            return [event["event"] for event in log_events(self._stderr.read_text())].count(name) >= times

        self._wait(is_logged, name, seconds)

    def wait_for_words(self, words: str, seconds: float = 60.0) -> None:
        """Returns when it printed these words, on whichever stream. Raises as `wait_for_event` does."""
        self._wait(lambda: words in self._stderr.read_text() + self._stdout.read_text(), words, seconds)

    def _wait(self, is_so: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            over = self.is_over
            if is_so():
                return
            assert not over, f"it ended before {what}: {self._stderr.read_text()}{self._stdout.read_text()}"
            assert time.monotonic() < deadline, f"no {what} in {seconds} s: {self._stderr.read_text()}"
            time.sleep(_POLL_SECONDS)

    def end(self, seconds: float = 90.0) -> Ended:
        """Waits for its end."""
        code = self._process.wait(seconds)
        return Ended(code, self._stdout.read_text(), self._stderr.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.is_over:
            self._process.kill()
            self._process.wait(30)


@dataclass(frozen=True)
class Command:
    """A command line with what all its calls share: flags, and variables of the environment.

    `directory` takes what the processes print. They are forked from one that has everything imported, unless `anew`
    says that the interpreter's own start belongs to the test.
    """

    directory: Path
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    program: tuple[str, ...] = REWRAP
    anew: bool = False

    def with_flags(self, *flags: str) -> Command:
        return replace(self, flags=(*self.flags, *flags))

    def with_environment(self, **variables: str) -> Command:
        return replace(self, environment={**(self.environment or {}), **variables})

    def start(self, *words: str) -> Running:
        """Starts it and waits for nothing. Use it as a context manager."""
        number = next(_numbers)
        stdout, stderr = self.directory / f"out-{number}.txt", self.directory / f"err-{number}.txt"
        environment = {**os.environ, **(self.environment or {})}
        process = start_program(self.line(*words), environment, stdout, stderr, anew=self.anew)
        return Running(process, stdout, stderr)

    def run(self, *words: str, seconds: float = 90.0) -> Ended:
        """Runs it to its end."""
        with self.start(*words) as running:
            return running.end(seconds)

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Runs it with `-o json` and returns the document; asserts how it ends."""
        ended = self.run(*words, "-o", "json")
        assert ended.code == code, f"{ended.code}: {ended.stdout}{ended.stderr}"
        return ended.document

    def line(self, *words: str) -> list[str]:
        """The words that start it."""
        return [*self.program, *words, *self.flags]


def start_program(
    line: Sequence[str],
    environment: Mapping[str, str],
    stdout: Path,
    stderr: Path,
    *,
    anew: bool = False,
    new_session: bool = False,
) -> subprocess.Popen[bytes] | ForkedProcess:
    """Starts a command line, as `fork` takes it, in the root of the project; executes it if it shall begin `anew`."""
    with stdout.open("ab") as out, stderr.open("ab") as err:  # they may be one file
        if not anew:
            return fork(line, environment, out, err, new_session=new_session)
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env=environment,
            start_new_session=new_session,
        )


def command_for(directory: Path, cluster: EtcdCluster, configuration: Path) -> Command:
    """The command line for one cluster and one configuration."""
    return Command(directory, (*cluster.client_flags(), "--encryption-config", str(configuration)))
