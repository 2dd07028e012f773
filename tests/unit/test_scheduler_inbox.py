"""What the leader asks for itself: repairs, once and together, and nothing that something larger looks at anyway."""

from __future__ import annotations

import pytest

from scheduler.inbox import Inbox
from worker.etcd.memory import MemoryStore
from worker.model.request import Origin, RequestState, start_request
from worker.state.audit import AuditLog
from worker.state.keyspace import Keyspace
from worker.state.requests import Requests

KEYSPACE = Keyspace("/kube-rewrap")
NOW = "2026-01-01T00:00:00+00:00"


class Scene:
    def __init__(self) -> None:
        self.store = store = MemoryStore()
        self.requests = Requests(store, KEYSPACE)
        self.inbox = Inbox(self.requests, AuditLog(store, KEYSPACE, "test"))

    async def waiting(self) -> list[tuple[Origin, tuple[str, ...], tuple[str, ...]]]:
        found = [one.request for one in await self.requests.all() if one.request.state is RequestState.WAITING]
        return sorted((one.origin, one.resources, one.namespaces) for one in found)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_place_that_drifts_again_and_again_is_asked_for_once(scene: Scene) -> None:
    for _ in range(3):
        await scene.inbox.ask_for_repairs([("secrets", "a"), ("nodes", "")])
    assert await scene.waiting() == [(Origin.DRIFT, ("nodes",), ()), (Origin.DRIFT, ("secrets",), ("a",))]


async def test_many_places_of_one_resource_are_asked_for_together(scene: Scene) -> None:
    await scene.inbox.ask_for_repairs([("secrets", f"n{number}") for number in range(11)])
    await scene.inbox.ask_for_repairs([("secrets", "another"), ("pods", "another")])
    assert await scene.waiting() == [(Origin.DRIFT, ("pods",), ("another",)), (Origin.DRIFT, ("secrets",), ())]


async def test_what_looks_at_everything_makes_repairs_needless(scene: Scene) -> None:
    await scene.inbox.ask_for_change(1, "the key changed")
    await scene.inbox.ask_for_repairs([("secrets", "a")])
    assert await scene.waiting() == [(Origin.CHANGE, (), ())]


async def test_an_operators_request_does_not_for_it_may_be_refused(scene: Scene) -> None:
    await scene.requests.submit(start_request({"id": "mine"}, "", NOW))
    await scene.inbox.ask_for_repairs([("secrets", "a")])
    assert await scene.waiting() == [(Origin.DRIFT, ("secrets",), ("a",)), (Origin.OPERATOR, (), ())]


async def test_a_change_gives_up_what_the_service_asked_for_before_and_no_operators_word(scene: Scene) -> None:
    await scene.requests.submit(start_request({"id": "mine"}, "", NOW))
    await scene.inbox.ask_for_repairs([("secrets", "a")])
    await scene.inbox.ask_for_resync("something is stale")
    await scene.inbox.ask_for_change(7, "the key changed")
    assert await scene.waiting() == [(Origin.CHANGE, (), ()), (Origin.OPERATOR, (), ())]
    following = await scene.inbox.next()
    assert following is not None
    assert following.request.id == "change-7"


async def test_a_rotations_word_is_taken_once(scene: Scene) -> None:
    for _ in range(2):
        await scene.inbox.ask_for_rotation("rotation-1-6")
    [stored] = await scene.requests.all()
    await scene.inbox.decide(stored, RequestState.ACCEPTED, "done")
    await scene.inbox.ask_for_rotation("rotation-1-6")
    assert await scene.waiting() == []
    assert await scene.inbox.waiting_for_us() is None


async def test_what_waits_for_convergence_is_next_as_soon_as_that_is_known(scene: Scene) -> None:
    await scene.inbox.ask_for_change(7, "the key changed")
    [stored] = await scene.requests.all()
    for _ in range(4):
        await scene.inbox.put_off_until_converged(stored, "one of three runs another file")
        [stored] = await scene.requests.all()
    assert await scene.inbox.next() is None
    waiting = await scene.inbox.waiting_for_us()
    assert (waiting is not None and waiting.because) == "one of three runs another file"

    scene.inbox.converged()
    following = await scene.inbox.next()
    assert following is not None
    assert following.request.id == "change-7"
    # What was on record is no longer true, and is not repeated.
    waiting = await scene.inbox.waiting_for_us()
    assert (waiting is not None and waiting.because) == ""


async def test_what_was_put_off_for_another_reason_keeps_waiting(scene: Scene) -> None:
    await scene.inbox.ask_for_change(7, "the key changed")
    [stored] = await scene.requests.all()
    await scene.inbox.put_off(stored, "etcd is nearly full")
    scene.inbox.converged()
    assert await scene.inbox.next() is None


async def test_a_request_of_which_the_name_is_taken_by_a_damaged_record_is_made(scene: Scene) -> None:
    scene.store.put(KEYSPACE.request("change-7"), b"not a record")
    await scene.inbox.ask_for_change(7, "the key changed")
    assert await scene.waiting() == [(Origin.CHANGE, (), ())]
