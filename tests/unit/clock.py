"""Time that costs none, for tests that look at what happens in it."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import ParamSpec

P = ParamSpec("P")


def without_waiting(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Runs an async test on a loop whose clock moves on at once when there is nothing to do but to wait."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(debug=True, loop_factory=_Loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


class _Selector(selectors.DefaultSelector):
    """Waits for no time to pass, and counts it instead; without a time-out, it waits for what really happens."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout and 0)
        if not ready and timeout:
            self.skipped += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return super().time() + self._jumping.skipped
