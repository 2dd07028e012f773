"""How a proof scan is cut into parts: every range once, and none too large."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from scheduler.proving import PART_OBJECTS, divide
from worker.model.batch import BatchSpec, Checkpoint
from worker.model.inventory import ResourceRange
from worker.model.keys import KeyRange


def batches(resource: str, sizes: list[int]) -> list[Checkpoint]:
    """Neighbouring batches that cover `<resource>/` with one letter each."""
    root = resource.encode() + b"/"
    starts = [root, *(root + b"%04d" % number for number in range(1, len(sizes)))]
    ends = [*starts[1:], KeyRange.of_prefix(root).end]
    return [
        Checkpoint(BatchSpec("c", number, resource, KeyRange(start, end), "sha256:0", (("n", size),)))
        for number, (start, end, size) in enumerate(zip(starts, ends, sizes, strict=True))
    ]


def whole(resource: str) -> ResourceRange:
    return ResourceRange(resource, KeyRange.of_prefix(resource.encode() + b"/"))


@given(st.lists(st.integers(0, 2_000), min_size=1, max_size=60), st.lists(st.integers(0, 2_000), min_size=1))
def test_the_parts_cover_every_range_once(one: list[int], other: list[int]) -> None:
    wanted = [whole("configmaps"), whole("secrets")]
    parts = [
        piece for part in divide(wanted, [*batches("configmaps", one), *batches("secrets", other)]) for piece in part
    ]
    for resource in wanted:
        pieces = [piece.range for piece in parts if piece.resource == resource.resource]
        assert (pieces[0].start, pieces[-1].end) == (resource.range.start, resource.range.end)
        assert all(left.end == right.start for left, right in pairwise(pieces))


def test_a_part_holds_about_as_many_objects_as_it_should() -> None:
    parts = divide([whole("secrets")], batches("secrets", [2_000] * 50))
    assert len(parts) == 50 * 2_000 // PART_OBJECTS


def test_what_has_no_batches_is_scanned_in_one_part() -> None:
    assert divide([whole("secrets")], []) == [(whole("secrets"),)]


def test_nothing_to_scan_is_one_empty_part_so_that_there_is_an_end() -> None:
    assert divide([], []) == [()]
