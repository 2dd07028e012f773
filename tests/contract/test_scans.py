"""A scan in parts, on every store: each object between two parts or pages once, at one revision; and in one's own time.

The keys are hostile: prefixes of others, empty names, the first and the last of the alphabet.
"""

from __future__ import annotations

import random
from contextlib import aclosing

import pytest

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.pages import PageSizer, read_keys, read_pages, read_stamps
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from tests.contract.conftest import Place

pytestmark = pytest.mark.timeout(60)

ROOT = "/registry/secrets/"
ALL = KeyRange.of_prefix(ROOT.encode())
BEHIND = [b"/registry/secrets", b"/registry/secrets0", b"/registry/secretsfoo/a"]
PIECES = ["a", "aa", "/", "-", "\x00", "\x01", "\x7f", "\u00ff", "\U0010ffff", "0", "9", "z"]
SMALL = PageSettings(objects=5)


def hostile(seed: int, count: int) -> list[bytes]:
    """Return different keys, in any order; the empty name and a ladder of prefixes among them."""
    chosen = random.Random(seed)
    names = {"".join(chosen.choices(PIECES, k=chosen.randint(0, 5))) for _ in range(count)}
    names |= {"", *("a" * length for length in range(12)), *("b/" * length for length in range(12))}
    return sorted((ROOT + name).encode() for name in names)


@pytest.mark.parametrize("seed", range(3))
async def test_each_object_is_read_once_at_a_revision_while_others_write(place: Place, seed: int) -> None:
    """Others create keys at the borders of each page, and delete and change those that come next."""
    keys = hostile(seed, 60)
    for key in [*keys, *BEHIND]:
        place.put(key, b"before")
    revision, left = await place.store.revision(), list(keys)
    read: list[bytes] = []
    async with aclosing(read_pages(place.store, ALL, PageSizer(SMALL), revision=revision)) as pages:
        async for page in pages:
            assert {item.value for item in page.items} == {b"before"}
            read += [item.key for item in page.items]
            left = [key for key in left if key > read[-1]]
            place.put(after(read[-1]), b"behind")
            place.put(read[-1], b"changed")
            for key in left[:1]:
                place.delete(key)
            for key in left[-1:]:
                place.put(key, b"changed")
    assert read == keys


@pytest.mark.parametrize("seed", range(3))
async def test_without_a_revision_no_object_that_stays_is_missed_or_read_twice(place: Place, seed: int) -> None:
    keys = hostile(seed, 60)
    for key in [*keys, *BEHIND]:
        place.put(key, b"before")
    stay, read = set(keys), list[bytes]()
    async with aclosing(read_pages(place.store, ALL, PageSizer(SMALL))) as pages:
        async for page in pages:
            read += [item.key for item in page.items]
            place.put(after(read[-1]), b"behind")
            for key in [key for key in keys if key > read[-1]][::7]:
                place.delete(key)
                stay.discard(key)
    assert read == sorted(set(read))
    assert stay <= set(read)


async def test_keys_and_stamps_are_all_read_once(place: Place) -> None:
    keys = sorted({b"%sns-%d/%d" % (ROOT.encode(), number % 7, number) for number in range(1_200)})
    for key in [*keys, *BEHIND]:
        place.put(key, b"")
    async with aclosing(read_keys(place.store, ALL)) as looks:
        assert [key async for look in looks for key in look] == keys
    revision = await place.store.revision()
    for key in keys[::5]:
        place.delete(key)
    async with aclosing(read_stamps(place.store, ALL, revision=revision)) as some:
        assert [one.key async for look in some for one in look] == keys


async def test_a_scan_that_was_interrupted_goes_on_at_its_revision_until_that_is_compacted(place: Place) -> None:
    """What a part of a proof does: it resumes after the last object that it counted, and never at another revision."""
    keys = hostile(7, 60)
    for key in keys:
        place.put(key, b"before")
    revision, rest, read = await place.store.revision(), ALL, list[bytes]()
    while not rest.is_empty:
        async with aclosing(read_pages(place.store, rest, PageSizer(SMALL), revision=revision)) as pages:
            page = await anext(pages, None)
        if page is None:
            break
        read += [item.key for item in page.items]
        rest = rest.since(after(read[-1]))
        place.put(keys[-1], b"changed")
    assert read == keys
    place.compact()
    with pytest.raises(CompactedError):
        async with aclosing(read_pages(place.store, ALL, PageSizer(SMALL), revision=revision)) as pages:
            await anext(pages)
