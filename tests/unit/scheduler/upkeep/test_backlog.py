"""What the leader asks for itself: repairs, once and together, and nothing that something larger looks at anyway."""

from __future__ import annotations

import pytest

from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.scheduler.upkeep.repairs import Drift
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import Origin, RequestState, start_request
from kube_rewrap.worker.records.requests import Requests
from tests.fakes.store import MemoryStore

KEYSPACE = Keyspace("/kube-rewrap")
NOW = "2026-01-01T00:00:00+00:00"


class Scene:
    def __init__(self) -> None:
        self.store = store = MemoryStore()
        self.drifted = Drift()
        self.requests = Requests(store, KEYSPACE)
        self.backlog = RequestBacklog(self.requests, AuditLog(store, KEYSPACE, "test"))

    async def drift(self, *places: tuple[str, str]) -> None:
        """Something drifted in these places, and the leader looks what is to be done."""
        for resource, namespace in places:
            self.drifted.add(resource, namespace)
        await self.backlog.ask_for_repairs(self.drifted)

    async def meet_all(self) -> None:
        for stored in await self.requests.all():
            if stored.value.state is RequestState.WAITING:
                await self.backlog.decide(stored, RequestState.ACCEPTED, "done")

    async def waiting(self) -> list[tuple[Origin, tuple[str, ...], tuple[str, ...]]]:
        found = [one.value for one in await self.requests.all() if one.value.state is RequestState.WAITING]
        return sorted((one.origin, one.resources, one.namespaces) for one in found)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_place_that_drifts_again_and_again_is_asked_for_once(scene: Scene) -> None:
    for _ in range(3):
        await scene.drift(("secrets", "a"), ("nodes", ""))
    assert await scene.waiting() == [(Origin.DRIFT, ("nodes",), ()), (Origin.DRIFT, ("secrets",), ("a",))]


async def test_a_place_that_was_just_repaired_is_left_for_a_while_and_another_one_is_not(scene: Scene) -> None:
    await scene.drift(("secrets", "a"))
    await scene.meet_all()
    await scene.drift(("secrets", "a"), ("secrets", "b"))
    assert await scene.waiting() == [(Origin.DRIFT, ("secrets",), ("b",))]


async def test_a_leader_after_this_one_knows_what_was_repaired(scene: Scene) -> None:
    await scene.drift(("secrets", "a"))
    await scene.meet_all()
    scene.backlog = RequestBacklog(scene.requests, AuditLog(scene.store, KEYSPACE, "test"))
    await scene.drift(("secrets", "a"))
    assert await scene.waiting() == []


async def test_places_of_one_resource_are_asked_for_together(scene: Scene) -> None:
    await scene.drift(("secrets", "b"), ("secrets", "a"))
    assert await scene.waiting() == [(Origin.DRIFT, ("secrets",), ("a", "b"))]


async def test_of_many_places_the_whole_resource_is_asked_for(scene: Scene) -> None:
    await scene.drift(*[("secrets", f"n{number}") for number in range(11)])
    await scene.drift(("secrets", "another"), ("pods", "another"))
    assert await scene.waiting() == [(Origin.DRIFT, ("pods",), ("another",)), (Origin.DRIFT, ("secrets",), ())]


@pytest.mark.parametrize("name", ["Team_A", "a" * 64, "..", "a\nb", "\udc80", "-a"])
async def test_drift_where_no_namespace_can_be_is_repaired_with_its_resource(scene: Scene, name: str) -> None:
    await scene.drift(("secrets", name))
    assert await scene.waiting() == [(Origin.DRIFT, ("secrets",), ())]


async def test_repairs_leave_nothing_in_the_audit_log_by_themselves(scene: Scene) -> None:
    await scene.drift(("secrets", "a"))
    [stored] = await scene.requests.all()
    await scene.backlog.put_off(stored, "no room")
    await scene.meet_all()
    assert [entry async for entry in AuditLog(scene.store, KEYSPACE, "test").entries()] == []


async def test_a_repair_that_cannot_be_met_now_holds_up_nobody(scene: Scene) -> None:
    await scene.drift(("secrets", "a"))
    waiting = await scene.backlog.waiting_for_us()
    assert waiting is not None
    [stored] = await scene.requests.all()
    await scene.backlog.put_off(stored, "no room")
    assert await scene.backlog.waiting_for_us() is None


async def test_what_looks_at_everything_makes_repairs_needless(scene: Scene) -> None:
    await scene.backlog.ask_for_change(1, "the key changed")
    await scene.drift(("secrets", "a"))
    assert await scene.waiting() == [(Origin.CHANGE, (), ())]


async def test_an_operators_request_does_not_for_it_may_be_refused(scene: Scene) -> None:
    await scene.requests.submit(start_request({"id": "mine"}, "", NOW))
    await scene.drift(("secrets", "a"))
    assert await scene.waiting() == [(Origin.DRIFT, ("secrets",), ("a",)), (Origin.OPERATOR, (), ())]


async def test_a_change_gives_up_what_the_service_asked_for_before_and_no_operators_word(scene: Scene) -> None:
    await scene.requests.submit(start_request({"id": "mine"}, "", NOW))
    await scene.drift(("secrets", "a"))
    await scene.backlog.ask_for_full_check("something is stale")
    await scene.backlog.ask_for_change(7, "the key changed")
    assert await scene.waiting() == [(Origin.CHANGE, (), ()), (Origin.OPERATOR, (), ())]
    following = await scene.backlog.next()
    assert following is not None
    assert following.value.id == "change-7"


async def test_a_rotations_word_is_taken_once(scene: Scene) -> None:
    for _ in range(2):
        await scene.backlog.ask_for_rotation("a scan found others", "rotation-1-6")
    [stored] = await scene.requests.all()
    await scene.backlog.decide(stored, RequestState.ACCEPTED, "done")
    await scene.backlog.ask_for_rotation("a scan found others", "rotation-1-6")
    assert await scene.waiting() == []
    assert await scene.backlog.waiting_for_us() is None


async def test_what_waits_for_convergence_is_next_as_soon_as_that_is_known(scene: Scene) -> None:
    await scene.backlog.ask_for_change(7, "the key changed")
    [stored] = await scene.requests.all()
    for _ in range(4):
        await scene.backlog.put_off_until_converged(stored, "one of three runs another file")
        [stored] = await scene.requests.all()
    assert await scene.backlog.next() is None
    waiting = await scene.backlog.waiting_for_us()
    assert (waiting is not None and waiting.because) == "one of three runs another file"

    scene.backlog.converged()
    following = await scene.backlog.next()
    assert following is not None
    assert following.value.id == "change-7"
    # What was on record is no longer true, and is not repeated.
    waiting = await scene.backlog.waiting_for_us()
    assert (waiting is not None and waiting.because) == ""


async def test_what_was_put_off_for_another_reason_keeps_waiting(scene: Scene) -> None:
    await scene.backlog.ask_for_change(7, "the key changed")
    [stored] = await scene.requests.all()
    await scene.backlog.put_off(stored, "etcd is nearly full")
    scene.backlog.converged()
    assert await scene.backlog.next() is None


async def test_a_request_of_which_the_name_is_taken_by_a_damaged_record_is_made(scene: Scene) -> None:
    scene.store.put(KEYSPACE.request("change-7"), b"not a record")
    await scene.backlog.ask_for_change(7, "the key changed")
    assert await scene.waiting() == [(Origin.CHANGE, (), ())]
