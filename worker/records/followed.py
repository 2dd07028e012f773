"""The numbered records of one campaign as last seen; a look decodes those that were written since the one before.

A look at what was written misses records that were deleted or damaged, so every `_RENEW_SECONDS` a look reads all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic

from kube_rewrap.worker.records.table import R, Stored

_RENEW_SECONDS = 60.0

Changed = Callable[[str, int], Awaitable[tuple[Mapping[int, Stored[R]], int]]]
"""Takes a campaign and a revision; returns the records written from it on, by number, and the next revision to give."""

Adopt = Callable[[Stored[R], Stored[R] | None], Stored[R]]
"""Takes a record as read, and as last seen; returns it as it is to be seen."""


class Followed(Generic[R]):
    """See the module's docstring. `changed` reads; `adopt` may change what was read."""

    def __init__(self, changed: Changed[R], adopt: Adopt[R] = lambda read, _: read) -> None:
        self._changed = changed
        self._adopt = adopt
        self._seen: dict[int, Stored[R]] = {}
        self._since = 0
        self._renew_at = 0.0

    def __getitem__(self, number: int) -> Stored[R]:
        """Return a record as last seen. Raises KeyError for one that was not."""
        return self._seen[number]

    @property
    def values(self) -> list[R]:
        """The records as last seen, in the order of their numbers."""
        return [self._seen[number].value for number in sorted(self._seen)]

    async def look(self, campaign: str) -> list[R]:
        """Read what was written since the last look; returns all records, in the order of their numbers."""
        is_whole = time.monotonic() >= self._renew_at
        found, self._since = await self._changed(campaign, 0 if is_whole else self._since)
        seen = {number: self._adopt(read, self._seen.get(number)) for number, read in found.items()}
        self._seen = seen if is_whole else self._seen | seen
        if is_whole:
            self._renew_at = time.monotonic() + _RENEW_SECONDS
        return self.values

    def forget(self) -> None:
        """Have the next look read all: the records were replaced, or a decision must not miss a deleted one."""
        self._renew_at = 0.0
