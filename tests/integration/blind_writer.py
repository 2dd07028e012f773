"""A writer that overwrites objects while a run is at work, and the check that none of its writes was lost."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.integration.apiserver import Key, manifest
from tests.servers.gateway import Gateway


@dataclass
class Writer:
    """Puts, deletes and creates anew, one key at a time; `expected` is what the last of its writes left.

    It is blind, as no real apiserver is: it overwrites whatever the run has just written. So a run that wrote
    anything but what it had read would show.
    """

    gateway: Gateway
    expected: dict[str, bytes]
    keys: tuple[Key, ...]
    seed: int
    writes: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "writer"))
    _work_done: Future[None] = field(init=False)

    def _work(self) -> None:
        dice = random.Random(self.seed)
        names = sorted(self.expected)
        while not self._ending.is_set():
            self._write_once(dice, dice.choice(names))
            self.writes += 1

    def _write_once(self, dice: random.Random, name: str) -> None:
        if name in self.expected and dice.random() < 0.2:
            del self.expected[name]
            self.gateway.delete(name)
            return
        plaintext = manifest("Secret", "default", name.rpartition("/")[2], f"write {self.writes} of {self.seed}")
        self.expected[name] = plaintext
        self.gateway.put(name, dice.choice(self.keys).seal(name, plaintext))

    def wait_for(self, writes: int) -> None:
        """Returns when it has written so often more."""
        goal = self.writes + writes
        while self.writes < goal and not self._work_done.done():
            self._ending.wait(0.005)

    def __enter__(self) -> Self:
        self._work_done = self._pool.submit(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._pool.shutdown()
        self._work_done.result()


def assert_values(gateway: Gateway, expected: dict[str, bytes], keys: tuple[Key, ...]) -> None:
    """Every object is what was written last, under whatever key."""
    found = {one.key: one.value for one in gateway.read("/registry/")}
    assert found.keys() == expected.keys()
    read = {name: {key.open(name, value) for key in keys} for name, value in found.items()}
    assert [name for name, plaintext in expected.items() if plaintext not in read[name]] == []
