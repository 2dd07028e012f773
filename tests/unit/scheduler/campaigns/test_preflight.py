"""Every reason not to start, all of them at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.scheduler.campaigns.preflight import preflight
from kube_rewrap.worker.errors import BudgetExhaustedError, RefusedError, SpaceError
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

GCM = KeyRef("aesgcm", "new", "1" * 16)
TWIN = KeyRef("aesgcm", "twin", "1" * 16)
BOX = KeyRef("secretbox", "box", "3" * 16)
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)
OLD = KeyRef("aescbc", "old", "2" * 16)
SETTINGS = BudgetSettings(gcm_limit=100)
ROOMY = Room(1, 100, None)
FULL = Room(90, 100, "etcd is full")


def found(*stale: tuple[KeyRef, int], resource: str = "secrets") -> Inventory:
    """Resources with so many stale objects under so many primaries, and one current object each."""
    tallies = []
    for number, (primary, count) in enumerate(stale):
        tally = ResourceTally(f"{resource}{number}", primary, (primary, OLD))
        tally.add_readable(primary, 1, 1)
        for _ in range(count):
            tally.add_readable(OLD, 1, 1)
        tallies.append(tally)
    return Inventory(1, tuple(tallies))


def budget(used: int, *, restored: bool = False) -> dict[str, Budget]:
    return {GCM.fingerprint: Budget(fingerprint=GCM.fingerprint, provider="aesgcm", reserved=used, restored=restored)}


@pytest.mark.parametrize(
    ("inventory", "budgets", "room", "allow_plaintext", "refusals"),
    [
        pytest.param(found((GCM, 100)), {}, ROOMY, False, [], id="a fresh key and just enough => go"),
        pytest.param(found((GCM, 101)), {}, ROOMY, False, [BudgetExhaustedError], id="one more than the limit => no"),
        pytest.param(found((GCM, 51)), budget(50), ROOMY, False, [BudgetExhaustedError], id="too few left => no"),
        pytest.param(found((GCM, 50)), budget(50), ROOMY, False, [], id="just enough left => go"),
        pytest.param(
            found((GCM, 60), (TWIN, 60)),
            {},
            ROOMY,
            False,
            [BudgetExhaustedError],
            id="two names of one key => together",
        ),
        pytest.param(
            found((GCM, 1)), budget(0, restored=True), ROOMY, False, [BudgetExhaustedError], id="restored => no"
        ),
        pytest.param(found((GCM, 0)), budget(500), ROOMY, False, [], id="nothing to do with a used-up key => go"),
        pytest.param(found((BOX, 10**4)), {}, ROOMY, False, [], id="secretbox has no limit => go"),
        pytest.param(found((PLAIN, 1)), {}, ROOMY, False, [RefusedError], id="would decrypt => no"),
        pytest.param(found((PLAIN, 1)), {}, ROOMY, True, [], id="would decrypt, and that is meant => go"),
        pytest.param(found((PLAIN, 0)), {}, ROOMY, False, [], id="plaintext, and all is plaintext already => go"),
        pytest.param(found((BOX, 1)), {}, FULL, False, [SpaceError], id="etcd is full => no"),
        pytest.param(found((BOX, 0)), {}, FULL, False, [], id="etcd is full, and nothing is to be written => go"),
        pytest.param(
            found((PLAIN, 1), (GCM, 101)),
            {},
            FULL,
            False,
            [RefusedError, BudgetExhaustedError, SpaceError],
            id="everything speaks against it => every reason",
        ),
    ],
)
def test_preflight(
    inventory: Inventory,
    budgets: dict[str, Budget],
    room: Room,
    allow_plaintext: bool,
    refusals: list[type[RefusedError]],
) -> None:
    found_refusals = preflight(inventory, budgets, room, SETTINGS, 1, allow_plaintext=allow_plaintext)
    assert [type(refusal) for refusal in found_refusals] == refusals


def test_a_refusal_names_the_key_what_is_wanted_and_what_is_left() -> None:
    (refusal,) = preflight(found((GCM, 51)), budget(60), ROOMY, SETTINGS, 1, allow_plaintext=False)
    assert str(refusal).startswith(
        "51 objects are to be encrypted with aesgcm:new (1111111111111111), which has 40 of 100 writes left. "
    )


def test_a_refusal_says_until_when_the_writes_of_others_were_counted() -> None:
    watched = {name: replace(one, until=70) for name, one in budget(60).items()}
    (refusal,) = preflight(found((GCM, 51)), watched, ROOMY, SETTINGS, 99, allow_plaintext=False)
    assert (
        "left, with the writes of other clients before revision 70 (at most 30 later writes are not counted). "
        in str(refusal)
    )


def test_a_restored_budget_is_refused_with_the_way_out() -> None:
    (refusal,) = preflight(found((GCM, 1)), budget(0, restored=True), ROOMY, SETTINGS, 1, allow_plaintext=False)
    assert "rewrap keys --accept 1111111111111111" in str(refusal)
