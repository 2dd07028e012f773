"""An operator's word on record: the last one, for one configuration."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.errors import TemporaryError
from kube_rewrap.worker.etcd.store import Expect, Outcome, Put
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.assumptions import Assumptions
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.fakes.store import MemoryStore

ONE = Assumption("sha256:1", "restarted all", "2026-11-23T10:00:00+00:00")
TWO = Assumption("sha256:2", "asked all", "2026-11-23T11:00:00+00:00")
KEYSPACE = Keyspace()


async def test_the_last_word_takes_the_place_of_the_one_before() -> None:
    store = MemoryStore()
    assert await Assumptions(store, KEYSPACE).load() is None
    for word in (ONE, TWO):
        await Assumptions(store, KEYSPACE).replace(word)
        assert await Assumptions(store, KEYSPACE).load() == word


async def test_a_damaged_record_is_named_and_can_be_replaced() -> None:
    store = MemoryStore()
    await store.commit([Expect(KEYSPACE.assumption, 0)], [Put(KEYSPACE.assumption, b'{"v":1,"file_hash":3}')])
    with capture_logs() as logs:
        assert await Assumptions(store, KEYSPACE).load() is None
    assert "/kube-rewrap/v1/assumption is damaged" in logs[0]["because"]
    await Assumptions(store, KEYSPACE).replace(ONE)
    assert await Assumptions(store, KEYSPACE).load() == ONE


def test_a_record_of_version_0_1_names_the_hash_generation() -> None:
    assert Assumption.from_json({"generation": "sha256:1", "reason": "restarted all", "at": ONE.at}) == ONE
    assert "generation" not in ONE.to_json()


async def test_it_gives_up_when_others_are_always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kube_rewrap.worker.records.table._LONGEST_PAUSE", 0.0)
    store = MemoryStore(lambda _kind, _key: Outcome.LOST)
    with pytest.raises(TemporaryError, match="in a row to other writers"):
        await Assumptions(store, KEYSPACE).replace(ONE)
