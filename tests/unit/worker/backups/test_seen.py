"""The table of seen keys answers as a set does, in bounded memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.backups.seen import SeenKeys


@given(st.lists(st.binary(max_size=2)))
def test_it_answers_as_a_set(keys: list[bytes]) -> None:
    table, model = SeenKeys(), set[bytes]()
    for key in keys:
        assert table.add(key) == (key not in model)
        model.add(key)
    assert len(table) == len(model)


def test_it_answers_as_a_set_while_it_grows() -> None:
    table = SeenKeys()
    for number in range(20_000):
        assert table.add(b"%d" % number)
        assert not table.add(b"%d" % (number // 2))
    assert not any(table.add(b"%d" % number) for number in range(20_000))
    assert len(table) == 20_000


def test_it_takes_64_bytes_a_key_at_most() -> None:
    tracemalloc.start()
    try:
        table = SeenKeys()
        for number in range(3 << 15):
            table.add(b"%d" % number)
            if number > 5_000:
                assert tracemalloc.get_traced_memory()[1] < 65 * (number + 1)
    finally:
        tracemalloc.stop()
