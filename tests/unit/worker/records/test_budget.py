"""The arithmetic of write budgets: used = reserved + estimated + max(0, observed - committed), never too small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.records.budget import Budget, BudgetState, Landed, Mark, Own, Sight, restored_text
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.verdict import KeyRef

KEY = KeyRef("aesgcm", "k1", "00112233aabbccdd")
LIMIT = 1_000
COUNTS = st.integers(0, 2**33)


def gcm(
    reserved: int = 0, committed: int = 0, observed: int = 0, estimated: int = 0, *, restored: bool = False
) -> Budget:
    return Budget(
        fingerprint=KEY.fingerprint,
        provider="aesgcm",
        names=("k1",),
        reserved=reserved,
        committed=committed,
        observed=observed,
        estimated=estimated,
        restored=restored,
    )


@pytest.mark.parametrize(
    ("budget", "used"),
    [
        pytest.param(gcm(), 0, id="nothing happened => nothing used"),
        pytest.param(gcm(reserved=100), 100, id="reserved and crashed => all of the block is used"),
        pytest.param(gcm(reserved=100, committed=90), 100, id="committed is part of reserved => not counted twice"),
        pytest.param(gcm(reserved=100, committed=90, observed=90), 100, id="the watch saw our own writes => as before"),
        pytest.param(gcm(reserved=100, committed=90, observed=80), 100, id="the watch lags => as before"),
        pytest.param(gcm(reserved=100, committed=90, observed=130), 140, id="others wrote 40 => they count"),
        pytest.param(
            gcm(reserved=100, committed=0, observed=90), 190, id="commits not recorded => counted twice, upwards"
        ),
        pytest.param(gcm(estimated=70), 70, id="first sight of an old key => its objects' versions"),
        pytest.param(gcm(10, 5, 25, 70), 100, id="all together => they add up"),
    ],
)
def test_used(budget: Budget, used: int) -> None:
    assert budget.used == used


@pytest.mark.parametrize(
    ("budget", "most"),
    [
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", sights={"secrets": Sight(900)}),
            900,
            id="every revision may have been one",
        ),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", sights={"secrets": Sight(900), "nodes": Sight(950)}),
            950,
            id="of the last look",
        ),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", born=700, sights={"secrets": Sight(900)}),
            200,
            id="none from before it was made",
        ),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", born=700),
            0,
            id="made by us and never estimated => nothing is missing",
        ),
        pytest.param(Budget(fingerprint="f", provider="aesgcm"), None, id="nobody looked => nobody can tell"),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", estimated=5, sights=None),
            None,
            id="an older record => nobody can tell",
        ),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", estimated=70, sights={"secrets": Sight(9)}),
            70,
            id="never less than the estimate",
        ),
    ],
)
def test_deleted_objects_are_missing_in_an_estimate_and_bounded_by_revisions(budget: Budget, most: int | None) -> None:
    assert budget.estimated_at_most == most


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_used_is_never_below_what_was_reserved_or_seen_of_others(
    reserved: int, committed: int, observed: int, estimated: int
) -> None:
    budget = gcm(reserved, committed, observed, estimated)
    assert budget.used >= reserved + estimated
    assert budget.used >= observed - committed


@pytest.mark.parametrize(
    ("budget", "state", "left"),
    [
        pytest.param(gcm(0), BudgetState.OK, 1_000, id="fresh => ok"),
        pytest.param(gcm(799), BudgetState.OK, 201, id="a write below 80 % => ok"),
        pytest.param(gcm(800), BudgetState.DUE, 200, id="80 % => due"),
        pytest.param(gcm(999), BudgetState.DUE, 1, id="one left => due"),
        pytest.param(gcm(1_000), BudgetState.EXHAUSTED, 0, id="100 % => exhausted"),
        pytest.param(gcm(1_500), BudgetState.EXHAUSTED, 0, id="over the limit => exhausted, and nothing negative left"),
        pytest.param(gcm(5, restored=True), BudgetState.RESTORED, 0, id="restored => nothing until accepted"),
        pytest.param(gcm(5_000, restored=True), BudgetState.RESTORED, 0, id="restored and over the limit => restored"),
    ],
)
def test_state_and_what_is_left(budget: Budget, state: BudgetState, left: int) -> None:
    assert budget.state(LIMIT, 0.8) is state
    assert budget.left(LIMIT) == left


@pytest.mark.parametrize("provider", ["aescbc", "secretbox", "identity", "kms"])
def test_only_aesgcm_has_a_limit(provider: str) -> None:
    budget = Budget(fingerprint="f", provider=provider, reserved=10**12, restored=True)
    assert budget.limit(LIMIT) is None
    assert budget.left(LIMIT) is None
    assert budget.state(LIMIT, 0.8) is BudgetState.UNLIMITED
    assert budget.collision_probability is None
    assert budget.reserving(7, LIMIT)[1] == 7


@pytest.mark.parametrize(
    ("writes", "probability"),
    [(0, 0.0), (200_000, 2.524354896707238e-19), (2**32, 1.1641532182693481e-10)],
    ids=["none", "Kubernetes' advice", "NIST's limit"],
)
def test_collision_probability(writes: int, probability: float) -> None:
    assert gcm(writes).collision_probability == pytest.approx(probability, rel=1e-12)


@pytest.mark.parametrize(
    ("before", "want", "granted"),
    [
        pytest.param(gcm(0), 100, 100, id="room for all => all"),
        pytest.param(gcm(950), 100, 50, id="room for some => some"),
        pytest.param(gcm(1_000), 100, 0, id="no room => none"),
        pytest.param(gcm(0, restored=True), 100, 0, id="restored => none"),
        pytest.param(gcm(0, 0, 990), 100, 10, id="others used most => the rest"),
    ],
)
def test_reserving(before: Budget, want: int, granted: int) -> None:
    after, given_out = before.reserving(want, LIMIT)
    assert given_out == granted
    assert after.reserved == before.reserved + granted
    assert after.used == before.used + granted


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 10_000))
def test_reserving_never_passes_the_limit(reserved: int, committed: int, observed: int, want: int) -> None:
    before = gcm(reserved, committed, observed)
    after, granted = before.reserving(want, LIMIT)
    assert 0 <= granted <= want
    assert after.used <= max(LIMIT, before.used)


def test_a_restored_budget_says_what_to_do_with_which_key() -> None:
    text = restored_text(KEY)
    assert "aesgcm:k1 (00112233aabbccdd)" in text
    assert "rewrap keys --accept 00112233aabbccdd" in text


def test_a_cluster_id_of_64_bits_survives_json() -> None:
    budget = Budget(fingerprint="f", provider="aesgcm", made_in=Mark(2**64 - 1))
    assert budget.to_json()["cluster_id"] == "18446744073709551615"
    assert Budget.from_json(budget.to_json()) == budget


# `committed` is the sum of `own`, for whoever reads the record without us.
@pytest.mark.parametrize("missing", sorted(set(gcm().to_json()) - {"restored", "committed"}))
def test_a_count_that_is_missing_is_never_guessed(missing: str) -> None:
    record = {name: value for name, value in gcm().to_json().items() if name != missing}
    with pytest.raises(ValueError, match=r" is no| is missing| is neither"):
        Budget.from_json(record)


@pytest.mark.parametrize(
    ("versions", "estimated"),
    [
        pytest.param({"secrets": 14}, 4, id="few versions => those less our swaps"),
        pytest.param({"secrets": 500}, 20, id="versions from before it was made => the other revisions since"),
        pytest.param({"secrets": 500, "configmaps": 300}, 20, id="two resources => they share the revisions"),
    ],
)
def test_a_key_that_rewrap_made_has_not_encrypted_more_often_than_there_were_revisions(
    versions: dict[str, int], estimated: int
) -> None:
    made = Budget(
        fingerprint=KEY.fingerprint, provider="aesgcm", born=100, own={"secrets": Own(landed=(Landed(10, 101, 110),))}
    )
    estimate = Estimate(130, {resource: {KEY.fingerprint: count} for resource, count in versions.items()})
    assert made.sighted(estimate, Observations(), again=tuple(versions)).estimated == estimated
