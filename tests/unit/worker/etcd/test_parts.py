"""Parts cover a range once, hold few keys, and are few: counted on sorted keys, without a clock."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kube_rewrap.worker.etcd.parts import Borders, Parts
from kube_rewrap.worker.etcd.ranges import KeyRange

pytestmark = pytest.mark.timeout(120)

ROOT = b"/registry/secrets/"
ALL = KeyRange.of_prefix(ROOT)


@dataclass(slots=True)
class Scan:
    """The keys that a scan read, its requests, and the sum of the keys that their ranges held."""

    keys: list[bytes]
    requests: int = 0
    counted: int = 0
    largest: int = 0
    """The keys of the part that held most."""


def scan(held: Iterable[bytes], limit: int, most: int, keys: KeyRange = ALL, borders: Borders | None = None) -> Scan:
    """Read a range as etcd answers: the first keys of each part, and how many the part holds."""
    index, done, parts = sorted(held), Scan([]), Parts(keys, borders)
    while not parts.is_done:
        asked = parts.next(most)
        assert keys.start <= asked.start < asked.end <= keys.end
        first, end = bisect_left(index, asked.start), bisect_left(index, asked.end)
        answer = index[first : min(end, first + limit)]
        parts.learn(answer, end - first - len(answer), most)
        done.keys += answer
        done.requests += 1
        done.counted += end - first
        done.largest = max(done.largest, end - first)
        assert done.requests < 100_000, "it goes on for ever"
    return done


HOSTILE = st.lists(
    st.sampled_from([b"a", b"b", b"ns/", b"/", b"\x00", b"\xff", b"\xff\xff", b"\x7f", b"1"]), max_size=6
).map(b"".join)
KEYS = st.sets(HOSTILE.map(lambda name: ROOT + name), max_size=60)


@given(KEYS, st.integers(1, 4), st.integers(1, 12))
@example({ROOT + b"\xff" * length for length in range(20)}, 1, 1)
@example({ROOT + b"a" * length for length in range(20)}, 1, 1)
@example({ROOT + b"a" * length + b"\0" for length in range(20)}, 2, 2)
def test_each_key_is_read_once_whatever_it_looks_like(keys: set[bytes], limit: int, most: int) -> None:
    done = scan(keys, limit, most)
    assert done.keys == sorted(keys)
    assert done.requests <= 20 * len(keys) + 20


@given(KEYS, st.sets(HOSTILE, max_size=30), st.integers(1, 4), st.integers(1, 12))
@example({ROOT + b"a"}, {b""}, 1, 1)
@example({ROOT + b"a"}, {b"\xff" * 9}, 1, 1)
def test_each_key_is_read_once_whatever_the_borders(keys: set[bytes], names: set[bytes], limit: int, most: int) -> None:
    done = scan(keys, limit, most, borders=Borders(ROOT, sorted(names)))
    assert done.keys == sorted(keys)
    assert done.requests <= 20 * len(keys) + len(names) + 20


@given(KEYS, st.sets(HOSTILE, max_size=30), st.integers(0, 60), st.integers(1, 12))
def test_a_part_of_a_range_has_the_borders_of_the_whole(
    keys: set[bytes], names: set[bytes], first: int, most: int
) -> None:
    some = KeyRange((*sorted(keys), ROOT)[min(first, len(keys))], ALL.end)
    done = scan(keys, 2, most, some, Borders(ROOT, sorted(names)))
    assert done.keys == sorted(key for key in keys if key in some)


@given(st.sets(st.binary(max_size=6), max_size=200), st.integers(1, 5))
def test_ranges_that_end_at_any_bytes_are_covered(keys: set[bytes], limit: int) -> None:
    some = KeyRange(b"\x10\xff", b"\xf0\x00\x01")
    assert scan(keys, limit, 4 * limit, some).keys == sorted(key for key in keys if key in some)


@given(KEYS, KEYS, KEYS, st.integers(1, 3))
def test_keys_that_come_and_go_between_requests_cost_no_other_key(
    stay: set[bytes], before: set[bytes], behind: set[bytes], limit: int
) -> None:
    """Counts of earlier answers are hints: those that stay are read once, whatever happens beside them."""
    turns: Iterator[set[bytes]] = iter([before, behind] * 10_000)
    parts, most, read = Parts(ALL), 3 * limit, list[bytes]()
    while not parts.is_done:
        held, asked = sorted(stay | next(turns)), parts.next(most)
        inside = [key for key in held if key in asked]
        parts.learn(inside[:limit], max(0, len(inside) - limit), most)
        read += inside[:limit]
    assert read == sorted(set(read))
    assert [key for key in read if key in stay] == sorted(stay)


@given(KEYS, st.randoms(use_true_random=False))
def test_each_key_is_read_once_also_where_each_request_is_for_another_number(
    keys: set[bytes], any_: random.Random
) -> None:
    index, read, parts = sorted(keys), list[bytes](), Parts(ALL)
    while not parts.is_done:
        most, limit = any_.choice([1, 2, 4, 8, 30]), any_.choice([1, 2, 3])
        asked = parts.next(most)
        assert ALL.start <= asked.start < asked.end <= ALL.end
        inside = [key for key in index if key in asked]
        parts.learn(inside[:limit], max(0, len(inside) - limit), most)
        read += inside[:limit]
    assert read == index


R = random.Random(1)
WORDS = [bytes(R.choices(b"abcdefghijklmnopqrstuvwxyz", k=R.randint(4, 12))) for _ in range(300)]


def words() -> bytes:
    return b"%s-%s/%s-%05x" % (R.choice(WORDS), R.choice(WORDS), R.choice(WORDS), R.getrandbits(20))


SHAPES: dict[str, Callable[[int], bytes]] = {
    "namespaces of 50": lambda number: b"ns-%05d/object-%02d" % divmod(number, 50),
    "5,000 namespaces": lambda number: b"team-%05d/object-%07d" % (number % 5_000, number),
    "one object in each namespace": lambda number: b"ns-%07d/only" % number,
    "one namespace, and names with a long common prefix": lambda number: b"default/a-very-long-common-%07d" % number,
    "numbers without leading zeros": lambda number: b"default/object-%d" % number,
    "random names": lambda _: b"default/%032x" % R.getrandbits(128),
    "words": lambda _: words(),
    "raw bytes": lambda _: R.randbytes(R.randint(0, 12)),
    "names of two letters": lambda _: bytes(R.choices(b"ab", k=R.randint(20, 40))),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("limit", "most"), [(500, 2_000), (48, 512)])
def test_the_cost_of_a_scan_grows_with_the_keys_and_not_with_their_square(shape: str, limit: int, most: int) -> None:
    """The keys of all parts, which etcd visits: at most ten times those of the range, of 10,000 keys and of 100,000."""
    for objects in (10_000, 100_000):
        keys = {ROOT + SHAPES[shape](number) for number in range(objects)}
        done = scan(keys, limit, most)
        assert done.counted <= 10 * len(keys)
        assert done.requests <= 3 * len(keys) / limit + 20


def namespaces_of(keys: Iterable[bytes]) -> Borders:
    return Borders(ROOT, sorted({key[len(ROOT) :].partition(b"/")[0] + b"0" for key in keys}))


@pytest.mark.parametrize(
    ("objects", "each"), [(10_000, 1), (100_000, 1), (10_000, 50), (100_000, 50), (100_000, 1_500)]
)
def test_between_namespaces_no_part_holds_more_than_a_few_of_them(objects: int, each: int) -> None:
    """etcd holds up writes while it counts the keys of a part. Without borders, it counts all in the first one."""
    keys = [ROOT + b"ns-%06d/object-%04d" % divmod(number, each) for number in range(objects)]
    done = scan(keys, 500, 2_000, borders=namespaces_of(keys))
    assert done.keys == keys
    assert done.largest <= max(4_000, each)
    assert done.counted <= 4 * objects
    assert done.requests <= objects / 150 + 40


def test_after_namespaces_without_objects_a_part_spans_256_at_most() -> None:
    full = [ROOT + b"ns-%05d/object-%04d" % divmod(number, 100) for number in range(100_000)]
    empty = [b"aa-%05d0" % number for number in range(5_000)]
    borders = Borders(ROOT, [*empty, *namespaces_of(full).names])
    done = scan(full, 500, 2_000, borders=borders)
    assert done.largest <= 25_600
    assert done.requests <= len(full) / 200 + len(empty) / 256 + 40


def test_a_namespace_that_no_border_names_is_read_as_well() -> None:
    keys = [ROOT + b"ns-%05d/object-%04d" % divmod(number, 50) for number in range(10_000)]
    few = Borders(ROOT, namespaces_of(keys).names[::40])
    done = scan(keys, 500, 2_000, borders=few)
    assert done.keys == keys
    assert done.counted <= 4 * len(keys)


@pytest.mark.parametrize("levels", [100, 200])
def test_a_ladder_of_prefixes_costs_a_count_for_each_byte(levels: int) -> None:
    """The worst names: each key's directory is a prefix of the next one's. A name has 253 bytes at most."""
    keys = [ROOT + b"a" * level + b"/%03d" % number for level in range(levels) for number in range(500)]
    done = scan(keys, 500, 2_000)
    assert done.counted <= (levels / 2 + 5) * len(keys)
    assert done.requests <= 4 * levels


def test_what_is_left_is_what_the_last_answers_say() -> None:
    parts = Parts(ALL)
    assert (parts.left, parts.next(10)) == (1, ALL)
    parts.learn([ROOT + b"a", ROOT + b"b"], 40, 10)
    assert (parts.left, parts.next(10)) == (40, KeyRange(ROOT + b"b\0", ROOT + b"c"))
    parts.learn([], 0, 10)
    assert (parts.left, parts.next(50)) == (40, KeyRange(ROOT + b"c", ALL.end))
    parts.learn([ROOT + b"d"], 0, 10)
    assert (parts.left, parts.is_done) == (0, True)
