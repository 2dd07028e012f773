"""What is remembered of keys on which a plugin fails while it unwraps others."""

from __future__ import annotations

import os
from dataclasses import replace
from sys import getsizeof

from kube_rewrap.worker.kms.suspects import ROUND_SECONDS, ROUNDS, Suspects
from kube_rewrap.worker.wrapped import SourceType
from tests.unit.worker.kms.scripted import V1, source


def test_a_key_is_given_up_in_the_last_round_and_in_each_later_one() -> None:
    suspects = Suspects()
    assert [suspects.failed(source("a"), 0.0) for _ in range(ROUNDS + 2)] == [False] * (ROUNDS - 1) + [True] * 3
    assert suspects.wait(source("a"), 0.0) == 0.0


def test_between_rounds_there_is_a_wait() -> None:
    suspects = Suspects()
    assert suspects.wait(source("a"), 0.0) == 0.0
    suspects.failed(source("a"), 100.0)
    assert [suspects.wait(source("a"), 100.0 + at) for at in (0, 40, ROUND_SECONDS, 900)] == [ROUND_SECONDS, 5, 0, 0]


def test_an_unwrapped_key_begins_anew() -> None:
    suspects = Suspects()
    suspects.failed(source("a"), 0.0)
    assert suspects.is_known(source("a"))
    suspects.clear(source("a"))
    assert not suspects.is_known(source("a"))
    assert len(suspects) == 0


def test_keys_that_differ_in_anything_are_counted_apart() -> None:
    one = source("a")
    others = [
        source("b"),
        source("a", "kek-2"),
        source("a", plugin=V1),
        replace(one, annotations=(("a.b", b""),)),
        replace(one, source_type=SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED),
        replace(one, plugin=replace(one.plugin, endpoint="unix:///other.sock")),
    ]
    suspects = Suspects()
    suspects.failed(one, 0.0)
    assert not any(map(suspects.is_known, others))


def test_the_memory_is_bounded_by_number_and_no_key_s_bytes_are_kept() -> None:
    suspects, large = Suspects(100), bytes(32_000)
    for number in range(1_000):
        suspects.failed(replace(source(f"{number}"), annotations=(("a.b", large + os.urandom(8)),)), float(number))
    assert len(suspects) == 100
    names = list(suspects._known)
    assert sum(getsizeof(name) + getsizeof(name[1]) for name in names) < 100 * 200
