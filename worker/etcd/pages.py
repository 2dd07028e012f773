"""Reads a range page by page, one page ahead; each page is bounded by count and by bytes.

A page is put together from answers to requests for `parts`, so that etcd's work grows with the keys of the range, not
with their square.

etcd bounds an answer by count only, and refuses none for its size: it sends any number of objects of 1 MiB each, and
the channel drops the answer. `PageSizer` bounds what that may cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import TooLargeError
from kube_rewrap.worker.etcd.parts import Borders, Parts
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Item, Page, Stamp, Store

_FIRST_LIMIT = 8
_GROWTH = 4
_DECAY = 2
_LARGE = 2**20
"""Bytes of the largest Secret or ConfigMap that kube-apiserver accepts."""
_SPARE = 48 * _LARGE
_SHARE = 10
_SHARE_OF_DATABASE = 16
_MOST_KNOWN = 64
_KNOWN_SECONDS = 60.0
"""After that objects may have grown, so that what a scan has shown of their sizes bounds no answer any more."""
_ANSWERS_IN_A_PART = 4
"""Few, so that etcd counts each key of a part only that often; more than one, so that most answers are full."""
_CHEAP = 512
"""So many keys etcd counts in less time than a request takes."""
_KEYS = 500
"""Keys in an answer without values; etcd loads the value of each nevertheless."""


class PageSizer:
    """How many objects to request next. Use one sizer for all ranges of a process: it learns from every answer.

    1. The count grows to the set one, as long as so many objects of the size of the last answers fit into a page.
    2. After an answer that was too large, rewrap reads the objects of that answer again, a few at once.
    3. The bytes of answers that were too large stay below 48 MiB and a tenth of all others: the next answer has no
       more objects than would fit into what is left of that, if each were as large as it may be. That is 1 MiB, or what
       a scan of the range has shown within a minute; the first answer and an answer with a larger object have to
       confirm that. A sixteenth of etcd's database counts instead of 48 MiB where that is more; a database that is not
       larger bounds its answers itself.
    """

    def __init__(self, settings: PageSettings) -> None:
        self.settings = settings
        self.few = max(1, min(settings.objects, settings.bytes // _LARGE))
        self._limit = min(_FIRST_LIMIT, settings.objects)
        self._usual = 1.0
        self._most_spare = float(max(_SPARE, settings.objects * _LARGE))
        self._spare = float(_SPARE)
        self._database, self._database_at = 0, 0.0
        self._largest: dict[KeyRange, tuple[int, float]] = {}

    def is_database_known(self, now: float) -> bool:
        """Whether the size of etcd's database was learned within a minute before the time `now`, in seconds."""
        return bool(self._database) and now < self._database_at + _KNOWN_SECONDS

    def learn_database(self, size: int, now: float) -> None:
        """Use the size of etcd's database at the time `now`, in bytes: no answer is larger for a while."""
        self._database, self._database_at = size, now
        self._spare = min(max(self._spare, size / _SHARE_OF_DATABASE), self._most_spare)

    def limit(self, room: int, largest: int, now: float) -> int:
        """Return the count of the next request: its answer should fit into `room` bytes; `largest` as `largest_in`."""
        fits_whole = self.is_database_known(now) and self._database <= self._spare
        safe = self.settings.objects if fits_whole else max(self.few, int(self._spare / largest))
        return max(1, min(self._limit, int(room / self._usual), safe))

    def learn(self, answer: Page, *, again: int = 0) -> None:
        """Use an answer; `again` of its objects were in one before that was too large."""
        if not answer.items:
            return
        mean = answer.bytes / len(answer.items)
        self._usual = max(mean, self._usual / _DECAY)
        self._limit = min(self.settings.objects, self._limit * _GROWTH)
        self._spare = min(self._spare + answer.bytes / _SHARE - again * mean, self._most_spare)

    def refused(self, limit: int) -> None:
        """Begin again with few objects: the answer with up to `limit` of them was too large."""
        self._limit = max(1, min(self.few, limit // _GROWTH))

    def largest_in(self, keys: KeyRange, now: float) -> int:
        """Return how large an object of the range may be, in bytes; `now` is the time in seconds."""
        known = (
            most
            for seen, (most, at) in self._largest.items()
            if now < at + _KNOWN_SECONDS and seen.start <= keys.start and keys.end <= seen.end
        )
        return min(known, default=_LARGE)

    def note_largest(self, keys: KeyRange, largest: int, now: float) -> None:
        """Remember the largest object of a range that was read to its end. The reading began at the time `now`."""
        self._largest.pop(keys, None)
        if len(self._largest) >= _MOST_KNOWN:
            del self._largest[next(iter(self._largest))]
        self._largest[keys] = max(1, largest), now


async def read_pages(
    store: Store,
    keys: KeyRange,
    sizer: PageSizer,
    *,
    revision: int = 0,
    since: int = 0,
    borders: Borders | None = None,
) -> AsyncGenerator[Page]:
    """Yield the non-empty pages of a range in key order; fetches the next one while the caller works on a page.

    `revision` pins all pages to one revision; `since` as in `Store.page`, so for short ranges only; `borders` as in
    `Parts`. A page's `left` is an estimate, 0 for the last page only. A caller that stops early must close the iterator
    (`aclosing`). Raises TooLargeError when a single object is too large.
    """
    reader = _Reader(store, keys, sizer, Parts(keys, borders), revision=revision, since=since)
    fetching = asyncio.create_task(reader.fetch())
    try:
        while True:
            page = await fetching
            if page.more:
                fetching = asyncio.create_task(reader.fetch())
            if page.items:
                yield page
            if not page.more:
                return
    finally:
        await cancel_all(fetching)


async def read_keys(store: Store, keys: KeyRange) -> AsyncGenerator[list[bytes]]:
    """Yield the keys of a range in order, some hundred at once; no revision is pinned."""
    parts, most = Parts(keys), _ANSWERS_IN_A_PART * _KEYS
    while not parts.is_done:
        found, left = await store.keys(parts.next(most), _KEYS)
        parts.learn(found, left, most)
        if found:
            yield found


async def read_stamps(store: Store, keys: KeyRange, *, revision: int = 0) -> AsyncGenerator[list[Stamp]]:
    """Yield the stamps of a range's keys in order, some hundred at once. `revision` as in `Store.page`."""
    parts, most = Parts(keys), _ANSWERS_IN_A_PART * _KEYS
    while not parts.is_done:
        found, left = await store.stamps(parts.next(most), _KEYS, revision=revision)
        parts.learn([one.key for one in found], left, most)
        if found:
            yield found


class _Reader:
    """Puts the pages of one range together. `revision` and `since` as in `read_pages`."""

    def __init__(
        self, store: Store, keys: KeyRange, sizer: PageSizer, parts: Parts, *, revision: int, since: int
    ) -> None:
        self._store = store
        self._keys = keys
        self._parts = parts
        self._sizer = sizer
        self._revision = revision
        self._since = since
        self._began = _now()
        self._known = sizer.largest_in(keys, self._began)
        self._expected = _LARGE  # until the first answer has confirmed what is known
        self._largest = 0
        self._again = 0

    async def fetch(self) -> Page:
        """Return the next page: at least half full, by its objects or its bytes, unless it is the last."""
        most = self._sizer.settings
        items: tuple[Item, ...] = ()
        size = 0
        while True:
            answer = await self._request(most.objects - len(items), most.bytes - size)
            items, size = items + answer.items, size + answer.bytes
            if self._parts.is_done:
                if not self._since:
                    self._sizer.note_largest(self._keys, self._largest, self._began)
                return Page(items, 0, answer.revision)
            if 2 * len(items) >= most.objects or 2 * size >= most.bytes:
                return Page(items, self._parts.left, answer.revision)

    async def _request(self, objects: int, room: int) -> Page:
        """Return the answer for the next part, with `objects` at most."""
        while True:
            limit = self._sizer.limit(room, self._expected, _now())
            limit = min(limit, self._sizer.few) if self._again else limit
            most = max(_CHEAP, _ANSWERS_IN_A_PART * limit)
            limit = min(limit, objects)
            try:
                answer = await self._store.page(
                    self._parts.next(most), limit, revision=self._revision, since=self._since
                )
            except TooLargeError:
                if limit == 1:
                    raise
                self._sizer.refused(limit)
                self._again = max(self._again, limit)
            else:
                self._learn(answer, most)
                return answer

    def _learn(self, answer: Page, most: int) -> None:
        again = min(self._again, len(answer.items))
        self._again -= again
        self._sizer.learn(answer, again=again)
        self._parts.learn([item.key for item in answer.items], answer.left, most)
        self._largest = max(self._largest, max((len(item.key) + len(item.value) for item in answer.items), default=0))
        self._expected = self._known if self._largest <= self._known else _LARGE


def _now() -> float:
    return asyncio.get_running_loop().time()
