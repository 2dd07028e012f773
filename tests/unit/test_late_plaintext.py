"""`plaintext.quarantine_late`: after everything was encrypted, plaintext is nobody's word, wherever one looks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from config.encryption import EncryptionConfiguration, Provider, ResourceEntry
from config.generation import Generation
from config.resources import Layout
from config.settings import PlaintextSettings, Settings
from scheduler.dispatch.local import Engine
from scheduler.run import Order
from scheduler.service import Service
from tests.unit.test_scheduler_service import EVERYTHING, NEW, OBJECT, OLD, PLAIN, fill, run
from worker.etcd.memory import MemoryStore
from worker.etcd.store import Item
from worker.model.campaign import CampaignState
from worker.model.verdict import Quarantine, Reason
from worker.pace.local import LocalPace
from worker.providers.chain import Chain, Opened

pytestmark = pytest.mark.timeout(30)

PUT = b"/registry/secrets/default/put-there"


def service(store: MemoryStore, *providers: Provider, late: bool = True, name: str = "sha256:0") -> Service:
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
    generation = Generation(name, configuration, "test")
    settings = replace(Settings(), plaintext=PlaintextSettings(quarantine_late=late))
    return Service(settings, generation, Layout(), Engine(store, settings, generation, LocalPace(0)))


async def completed(order: Order = EVERYTHING) -> MemoryStore:
    """A registry with plaintext in it, everything rewrapped and proven, and then plaintext that a writer put there."""
    store = MemoryStore()
    fill(store, PLAIN)
    ended = await run(service(store, NEW, PLAIN), order)
    assert (ended.campaign.state, ended.report.rewritten) == (CampaignState.COMPLETE, 12)
    store.put(PUT, OBJECT)
    return store


async def test_plaintext_after_completion_is_left_alone_and_every_command_says_so() -> None:
    store = await completed()
    one = service(store, NEW, PLAIN)
    plan = await one.plan(EVERYTHING)
    assert (plan.found.stale, plan.found.unreadable_by) == (0, {("secrets", Reason.LATE_PLAINTEXT): 1})
    _, examined = await one.examine(PUT)
    assert isinstance(examined.verdict, Quarantine)
    assert (examined.verdict.reason, examined.verdict.claimed) == (Reason.LATE_PLAINTEXT, (Chain([PLAIN]).primary,))
    with capture_logs():
        ended = await run(one)
    assert ended.campaign.state is CampaignState.INCOMPLETE
    assert [(left.key, left.reason) for left in ended.quarantined] == [(PUT, Reason.LATE_PLAINTEXT)]
    assert ended.proof.unreadable_by == ended.quarantined_by == {("secrets", Reason.LATE_PLAINTEXT): 1}
    found = await store.get(PUT)
    assert found is not None
    assert found.value == OBJECT
    # The observer asks the same engine.
    recognised = one.engine.recognise(Item(PUT, OBJECT, 1, 1, 0), "secrets")
    assert isinstance(recognised, Quarantine)


@pytest.mark.parametrize(
    ("late", "name", "order"),
    [
        pytest.param(False, "sha256:0", EVERYTHING, id="the setting is off"),
        pytest.param(True, "sha256:1", EVERYTHING, id="completed under another configuration"),
        pytest.param(True, "sha256:0", Order(namespaces=("default",)), id="only a namespace was complete"),
    ],
)
async def test_else_plaintext_is_sealed_as_before(late: bool, name: str, order: Order) -> None:
    store = await completed(order)
    ended = await run(service(store, NEW, PLAIN, late=late, name=name))
    assert (ended.campaign.state, ended.report.rewritten) == (CampaignState.COMPLETE, 1)


@pytest.mark.parametrize(
    ("providers", "stored", "expected"),
    [
        pytest.param((NEW, PLAIN), OBJECT, Reason.LATE_PLAINTEXT, id="plaintext => left alone"),
        pytest.param((NEW, PLAIN), b"garbage", Reason.UNKNOWN_BYTES, id="no object => as ever"),
        pytest.param((NEW,), OBJECT, Reason.IDENTITY_MISSING, id="identity is not configured => as ever"),
        pytest.param((PLAIN, NEW), OBJECT, None, id="identity writes => current"),
        pytest.param((NEW, PLAIN, OLD), Chain([OLD]).seal(OBJECT, PUT), None, id="under a key => as ever"),
    ],
)
def test_what_a_chain_that_believes_no_plaintext_says(
    providers: tuple[Provider, ...], stored: bytes, expected: Reason | None
) -> None:
    verdict = Chain(providers, plaintext_is_late=True).open(stored, PUT)
    if expected is None:
        assert isinstance(verdict, Opened)
    else:
        assert isinstance(verdict, Quarantine)
        assert verdict.reason is expected
