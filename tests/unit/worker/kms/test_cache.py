"""What a process remembers of unwrapped keys, and for how long."""

from __future__ import annotations

from dataclasses import replace
from sys import getsizeof

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.kms.cache import REFUSED_SECONDS, KeyCache
from kube_rewrap.worker.wrapped import DataKey, RefusedKey, WrappedKey
from tests.unit.worker.kms.scripted import V1, source

SECRET = SecretBytes(bytes(32))
LARGE = 2**30


def known(cache: KeyCache, *names: str) -> list[str]:
    return [name for name in names if cache.get(source(name), 0.0) is not None]


def test_the_least_recently_used_entry_leaves_by_number() -> None:
    cache = KeyCache(3, LARGE)
    for name in "abc":
        cache.put(source(name), SECRET, 0.0)
    cache.get(source("a"), 0.0)
    cache.put(source("d"), SECRET, 0.0)
    assert len(cache) == 3
    assert known(cache, *"abcd") == ["a", "c", "d"]


def test_entries_leave_by_bytes_and_wrapped_keys_and_annotations_count() -> None:
    cache = KeyCache(1000, 100_000)
    for name in "abcdefgh":
        cache.put(with_annotation(name, 34_000), SECRET, 0.0)
        assert cache.size <= 100_000
    assert len(cache) == 2  # each takes 34,000 bytes and more
    assert cache.get(with_annotation("h", 34_000), 0.0) == SECRET


def test_an_entry_larger_than_all_is_not_kept_and_drops_no_other() -> None:
    cache = KeyCache(10, 5_000)
    cache.put(source("a"), SECRET, 0.0)
    cache.put(with_annotation("b", 6_000), SECRET, 0.0)
    assert (len(cache), known(cache, "a")) == (1, ["a"])


def test_the_bytes_of_a_replaced_entry_are_given_back() -> None:
    cache = KeyCache(10, LARGE)
    cache.put(source("a"), SECRET, 0.0)
    size = cache.size
    for _ in range(5):
        cache.put(source("a"), SECRET, 0.0)
    assert cache.size == size


def test_a_refusal_ends() -> None:
    cache = KeyCache(10, LARGE)
    cache.put(source("a"), RefusedKey("because"), 50.0)
    assert cache.get(source("a"), 49.9 + REFUSED_SECONDS) == RefusedKey("because")
    assert cache.get(source("a"), 50.0 + REFUSED_SECONDS) is None


def test_a_forgotten_key_is_asked_for_once_more_and_then_stays_for_a_while() -> None:
    cache = KeyCache(10, LARGE)
    cache.put(source("a"), SECRET, 0.0)
    cache.forget(source("a"), 1.0)
    assert cache.get(source("a"), 1.0) is None
    cache.put(source("a"), SECRET, 2.0)
    cache.forget(source("a"), 3.0)
    assert cache.get(source("a"), 3.0) == SECRET
    cache.forget(source("a"), 2.0 + REFUSED_SECONDS)
    assert cache.get(source("a"), 2.0 + REFUSED_SECONDS) is None


def test_a_refusal_and_an_unknown_key_can_not_be_forgotten() -> None:
    cache = KeyCache(10, LARGE)
    cache.put(source("a"), RefusedKey("because"), 0.0)
    cache.forget(source("a"), 1.0)
    cache.forget(source("b"), 1.0)
    assert (cache.get(source("a"), 1.0), cache.get(source("b"), 1.0)) == (RefusedKey("because"), None)


def test_the_witness_is_the_newest_sound_key_of_that_plugin_and_key_id() -> None:
    cache = KeyCache(10, LARGE)
    cache.put(source("a"), SECRET, 0.0)
    cache.put(source("b"), SECRET, 0.0)
    cache.put(source("c", "kek-2"), SECRET, 0.0)
    cache.put(source("d", plugin=V1), SECRET, 0.0)
    cache.put(source("e"), RefusedKey("because"), 0.0)
    cache.put(source("f"), SECRET, 0.0)
    cache.forget(source("f"), 1.0)
    cache.put(source("f"), SECRET, 1.0)
    assert cache.witness(source("z").plugin, "kek-1", 2.0) == DataKey(source("b"), SECRET)
    assert cache.witness(source("z").plugin, "kek-3", 2.0) is None


def test_many_small_annotations_count_with_the_memory_that_they_take() -> None:
    """As an attacker who writes to etcd would choose them: within Kubernetes' limit of 32,768 bytes."""
    wrapped = replace(source("a"), annotations=tuple((f"{number:x}.b", b"") for number in range(5_400)))
    taken = sum(map(getsizeof, (part for pair in wrapped.annotations for part in (pair, *pair))))
    assert sum(len(name) for name, _ in wrapped.annotations) <= 32_768
    cache = KeyCache(10, LARGE)
    cache.put(wrapped, SECRET, 0.0)
    assert taken / 2 < cache.size < 2 * taken


def with_annotation(name: str, size: int) -> WrappedKey:
    return replace(source(name), annotations=(("a.example", bytes(size)),))
