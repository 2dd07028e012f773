"""Control requests: each changes its campaign once, whatever becomes of the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Outcome, Put
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import RequestKind, RequestState
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.table import Stored
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

SPACE = Keyspace()
NOW = "2026-01-01T00:00:00+00:00"


class LossyStore(MemoryStore):
    """After `then` is set, the next commit is applied, another writer comes, and the answer is lost."""

    then: Callable[[], Awaitable[object]] | None = None

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        result = await super().commit(expects, changes)
        if self.then is None:
            return result
        another, self.then = self.then, None
        await another()
        return CommitResult(Outcome.UNKNOWN)


async def test_a_pause_whose_answer_was_lost_does_not_undo_a_resume_that_came_after_it() -> None:
    store = LossyStore()
    campaigns, requests = Campaigns(store, SPACE), Requests(store, SPACE)
    await campaigns.save(
        Stored(
            Campaign(
                id="c",
                state=CampaignState.RUNNING,
                generation="sha256:0",
                scope=Scope(("secrets",)),
                batches=0,
                planned_at=NOW,
                because="why",
            )
        )
    )

    async def resume() -> None:
        await requests.control(RequestKind.RESUME, "c", "second")
        await campaigns.change("c", lambda one: one.moved(CampaignState.RUNNING, "the scheduler goes on"))

    store.then = resume
    paused = await requests.control(RequestKind.PAUSE, "c", "first")
    assert paused.state is RequestState.ACCEPTED
    found = await campaigns.get("c")
    assert found is not None
    assert found.value.state is CampaignState.RUNNING
