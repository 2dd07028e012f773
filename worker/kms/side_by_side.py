"""Few calls side by side, over any number of items."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

T = TypeVar("T")


async def side_by_side(most: int, items: Collection[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Await `work` for each item, at most `most` at once, begun in their order.

    The first error cancels the rest, and is raised alone. No task outlives the call.
    """
    rest = iter(items)

    async def work_on_the_rest() -> None:
        for item in rest:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(most, len(items))):
                group.create_task(work_on_the_rest(), name="kms calls")
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
