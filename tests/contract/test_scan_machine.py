"""Scans of a real etcd against a model: each object once, at one revision, over pages, parts and processes.

The machine owns a range of etcd, and knows what it held at the revision of each scan. A scan is cut into parts, as a
proof is, and each read of a page of a part is done by one of some processes, each with its own connection and sizer,
and from the part's cursor alone. Between two reads other clients create, change and delete keys, and compact.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.scheduler.registry.discovery import cut
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.pages import PageSizer, read_keys, read_pages, read_stamps
from kube_rewrap.worker.etcd.parts import Borders
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Delete, Put, Store
from kube_rewrap.worker.records.inventory import ResourceRange
from tests.contract.conftest import STATE_PREFIX, settings_of
from tests.servers.etcd import EtcdCluster

pytestmark = pytest.mark.timeout(120)

T = TypeVar("T")

PIECES = [b"a", b"aa", b"b", b"ns/", b"/", b"-", b"\x00", b"\x00\x00", b"\x01", b"\x7f", b"\xff", b"\xff\xff", b"\xc3"]
NAMES = st.lists(st.sampled_from(PIECES), max_size=5).map(b"".join)
"""The empty name, names that are prefixes of others, and bytes that are no text."""
BORDERS = [b"", b"a0", b"b0", b"ns0", b"ns\xff", b"\xff"]
SIZES = st.sampled_from([0, 1, 100, 2_000, 5_000])
PROCESSES = [PageSettings(objects=1), PageSettings(objects=3), PageSettings(objects=8, bytes=4096), PageSettings()]
_NUMBERS = itertools.count()


@dataclass(slots=True)
class Part:
    """The rest of a part, and what was read of it so far."""

    rest: KeyRange
    read: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Scan:
    """A scan at a revision, and what the range held then."""

    revision: int
    held: dict[bytes, bytes]
    parts: list[Part]


class ScanMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    scans = Bundle("scans")

    def __init__(self, cluster: EtcdCluster) -> None:
        super().__init__()
        self._cluster = cluster
        # Neighbours of other examples, whose keys are no part of this one's range.
        self._root = b"/registry/secrets/%d/" % next(_NUMBERS)
        self._borders = Borders(self._root, BORDERS)
        self._all = ResourceRange("secrets", KeyRange.of_prefix(self._root), self._borders)
        self._now: dict[bytes, bytes] = {}
        self._compacted = 0
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        settings = settings_of(cluster.endpoints[0])
        self._other: Store = self._do(self._stack.enter_async_context(open_store(settings, "/registry")))
        # So that this example's first revision is later than what the example before it compacted.
        self._do(self._other.commit([], [Put(b"/registry/secrets", b"")]))
        self._processes: list[tuple[Store, PageSizer]] = [
            (
                self._do(self._stack.enter_async_context(open_store(settings, STATE_PREFIX, read_share=0.9))),
                PageSizer(one),
            )
            for one in PROCESSES
        ]

    def _do(self, work: Coroutine[object, object, T]) -> T:
        return self._runner.run(work)

    @rule(names=st.lists(NAMES, min_size=1, max_size=12), size=SIZES)
    def write(self, names: list[bytes], size: int) -> None:
        for name in names:
            key, value = self._root + name, b"%d " % next(_NUMBERS) + bytes(size)
            self._do(self._other.commit([], [Put(key, value)]))
            self._now[key] = value

    @rule(first=st.integers(0, 2))
    def delete(self, first: int) -> None:
        for key in sorted(self._now)[first::3]:
            self._do(self._other.commit([], [Delete.of_key(key)]))
            del self._now[key]

    @rule(target=scans, every=st.integers(1, 20), process=st.sampled_from(range(len(PROCESSES))))
    def begin(self, every: int, process: int) -> Scan:
        """Pin a revision, then cut the range by the keys of a later one, as a proof does."""
        store, _ = self._processes[process]
        revision, held = self._do(store.revision()), dict(self._now)
        self.write([b"a", b"ns/late"], 1)
        parts = self._do(cut(store, self._all, every))
        assert [one.range.end for one in parts[:-1]] == [one.range.start for one in parts[1:]]
        assert (parts[0].range.start, parts[-1].range.end) == (self._all.range.start, self._all.range.end)
        return Scan(revision, held, [Part(one.range) for one in parts])

    @rule(scan=scans, part=st.integers(0, 50), pages=st.integers(1, 3), process=st.sampled_from(range(len(PROCESSES))))
    def read(self, scan: Scan, part: int, pages: int, process: int) -> None:
        """Let a process read some pages of a part, and forget all but the cursor."""
        one = scan.parts[part % len(scan.parts)]
        self._do(self._read(scan, one, pages, process))

    @rule(scan=st.one_of(scans), process=st.sampled_from(range(len(PROCESSES))))
    def finish(self, scan: Scan, process: int) -> None:
        """Read the rest of each part: together they are what the range held, in order."""
        for one in reversed(scan.parts):
            self._do(self._read(scan, one, None, process))
        if scan.revision >= self._compacted:
            assert [item for part in scan.parts for item in part.read] == sorted(scan.held.items())

    async def _read(self, scan: Scan, part: Part, most: int | None, process: int) -> None:
        store, sizer = self._processes[process]
        if part.rest.is_empty:
            return
        try:
            reading = read_pages(store, part.rest, sizer, revision=scan.revision, borders=self._borders)
            async with aclosing(reading) as pages:
                read = 0
                async for page in pages:
                    part.read += [(item.key, item.value) for item in page.items]
                    part.rest = part.rest.since(after(page.items[-1].key))
                    read += 1
                    if read == most:
                        return
        except CompactedError:
            assert scan.revision < self._compacted
            return
        assert scan.revision >= self._compacted
        part.rest = part.rest.since(part.rest.end)

    @rule(process=st.sampled_from(range(len(PROCESSES))))
    def count(self, process: int) -> None:
        """What reads keys alone reads each once, too."""

        async def look(store: Store) -> tuple[list[bytes], list[bytes]]:
            keys = [key async for look in read_keys(store, self._all.range) for key in look]
            stamps = [one.key async for look in read_stamps(store, self._all.range) for one in look]
            return keys, stamps

        held = sorted(self._now)
        assert self._do(look(self._processes[process][0])) == (held, held)

    @rule()
    def compact(self) -> None:
        revision = self._cluster.admin().revision()
        if revision > self._compacted:
            self._cluster.admin().compact(revision)
            self._compacted = revision

    def teardown(self) -> None:
        self._do(self._stack.aclose())
        self._runner.close()


def test_each_object_is_read_once_at_one_revision_over_pages_parts_and_processes(etcd_any: EtcdCluster) -> None:
    class OnThisEtcd(ScanMachine):
        def __init__(self) -> None:
            super().__init__(etcd_any)

    run_state_machine_as_test(
        OnThisEtcd, settings=hypothesis.settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
