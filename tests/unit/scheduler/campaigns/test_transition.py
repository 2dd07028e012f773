"""The steps of a campaign, what a scan lets us say, and which key may go: scenarios."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kube_rewrap.scheduler.campaigns.transition import (
    MAX_SWEEPS,
    Finish,
    Halt,
    Park,
    Prove,
    Rest,
    Step,
    Sweep,
    Work,
    advance,
)
from kube_rewrap.scheduler.keys.removal import NEVER_PROVEN, PARTIAL, UNFINISHED, Surroundings, judge_keys
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, QuarantineLimit, Scope, new_id
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason

NEW = KeyRef("aesgcm", "new", "1" * 16)
OLD = KeyRef("aescbc", "old", "2" * 16)
RENAMED = KeyRef("aescbc", "renamed", "2" * 16)
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)
CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=2,
    planned_at="2024-01-01T00:00:00+00:00",
    because="why",
)


def batch(number: int, state: BatchState = BatchState.DONE, *, stuck: int = 0, sweep: int = 1) -> Checkpoint:
    spec = BatchSpec(
        campaign="c", number=number, resource="secrets", range=KeyRange(b"a", b"b"), generation="sha256:0", sweep=sweep
    )
    return Checkpoint(spec=spec, state=state, report=BatchReport(quarantined=stuck, stuck=stuck))


DONE = (batch(0), batch(1))


def tally(
    under: dict[KeyRef, int],
    unreadable: dict[KeyRef, int] | None = None,
    *,
    resource: str = "secrets",
    primary: KeyRef = NEW,
    configured: tuple[KeyRef, ...] = (NEW, OLD, PLAIN),
) -> ResourceTally:
    found = ResourceTally(resource, primary, configured)
    for key, count in under.items():
        for number in range(count):
            found.add_readable(key, 100, number + 1)
    for key, count in (unreadable or {}).items():
        for number in range(count):
            found.add_unreadable(b"/%d" % number, Quarantine(Reason.AUTHENTICATION_FAILED, "no", (key,)))
    return found


def proof(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> Inventory:
    return Inventory(77, tallies, unknown)


CLEAN = proof(tally({NEW: 5}))
ONE_STALE = proof(tally({NEW: 4, OLD: 1}))
ONE_UNREADABLE = proof(tally({NEW: 4}, {OLD: 1}))


STILL_STALE = (
    "at revision 77, 1 objects are not under their primary key (in quarantine, or a kube-apiserver still "
    "writes with another key)"
)

# ---------------------------------------------------------------------------------------------------------- campaign


@pytest.mark.parametrize(
    ("batches", "scan", "action", "because"),
    [
        pytest.param(
            (batch(0, BatchState.PENDING), batch(1)),
            None,
            Work((batch(0).spec,)),
            "1 of 2 batches are not done",
            id="a batch is pending => work",
        ),
        pytest.param(
            (batch(0, BatchState.RUNNING), batch(1, BatchState.PENDING)),
            CLEAN,
            Work((batch(0).spec, batch(1).spec)),
            "2 of 2 batches are not done",
            id="a batch runs => work, whatever an earlier scan said",
        ),
        pytest.param(DONE, None, Prove(), "all batches are done, which proves nothing yet", id="all done => prove it"),
        pytest.param((), None, Prove(), "all batches are done, which proves nothing yet", id="no batches => prove it"),
        pytest.param(
            DONE, ONE_STALE, Sweep(), "1 objects were written under another key while the batches were at work",
            id="one object was written with the old key behind us => sweep",
        ),
    ],
)  # fmt: skip
def test_the_next_step(
    batches: tuple[Checkpoint, ...], scan: Inventory | None, action: Work | Prove | Sweep, because: str
) -> None:
    step = advance(CAMPAIGN, batches, scan, frozenset(), 0)
    assert (step.action, step.because) == (action, because)


@pytest.mark.parametrize(
    ("batches", "scan", "sweeps", "state", "because"),
    [
        pytest.param(
            DONE, CLEAN, 1, CampaignState.COMPLETE, "a scan at revision 77 read all 5 objects with their primary key",
            id="every object under the primary => complete",
        ),
        pytest.param(
            (), proof(tally({})), 1, CampaignState.COMPLETE,
            "a scan at revision 77 read all 0 objects with their primary key", id="nothing to do => complete",
        ),
        pytest.param(
            DONE, ONE_UNREADABLE, 1, CampaignState.INCOMPLETE,
            "at revision 77, 1 objects can't be read", id="one object unreadable => incomplete",
        ),
        pytest.param(
            (batch(0, stuck=1), batch(1)), ONE_STALE, 1, CampaignState.INCOMPLETE,
            STILL_STALE, id="one object too large to rewrite => incomplete",
        ),
        pytest.param(
            (batch(0, sweep=MAX_SWEEPS), batch(1, sweep=MAX_SWEEPS)), ONE_STALE, MAX_SWEEPS, CampaignState.INCOMPLETE,
            STILL_STALE, id="a late writer outlasts the sweeps => incomplete",
        ),
        pytest.param(
            DONE, proof(tally({NEW: 5}), unknown=("/registry/strange/",)), 1, CampaignState.INCOMPLETE,
            "at revision 77, no resource is known for the objects under /registry/strange/",
            id="a path of no known resource => incomplete",
        ),
        pytest.param(
            (), ONE_STALE, 1, CampaignState.INCOMPLETE,
            STILL_STALE.replace("77, ", "77, the records of 2 batches are missing or can't be read; "),
            id="stale without a batch to sweep => incomplete",
        ),
    ],
)  # fmt: skip
def test_the_end(
    batches: tuple[Checkpoint, ...], scan: Inventory, sweeps: int, state: CampaignState, because: str
) -> None:
    step = advance(replace(CAMPAIGN, sweeps=sweeps), batches, scan, frozenset(), 0)
    assert step.because == because
    assert step.action == Finish(replace(CAMPAIGN, sweeps=sweeps, state=state, because=because, proof_revision=77))


@pytest.mark.parametrize("state", [CampaignState.RUNNING, CampaignState.PROVING])
@pytest.mark.parametrize(
    ("most", "fresh", "halted"),
    [
        pytest.param(None, 9_000, False, id="an operator asked for it => it goes on"),
        pytest.param(10, 10, False, id="no more than it may => it goes on"),
        pytest.param(10, 11, True, id="more than it may, over all batches => rest and alarm"),
    ],
)
def test_a_quarantine_that_grows(most: int | None, fresh: int, halted: bool, state: CampaignState) -> None:
    campaign = replace(CAMPAIGN, state=state, quarantine_limit=QuarantineLimit(5, 7, most))
    batches = [
        replace(batch(n), report=BatchReport(quarantined=fresh, fresh=part)) for n, part in ((0, 4), (1, fresh - 4))
    ]
    step = advance(campaign, batches, None, frozenset(), 0)
    if not halted:
        assert step.action == Prove()
        return
    assert isinstance(step.action, Halt)
    assert step.action.campaign == campaign.paused(Pause.QUARANTINE, step.because)
    assert step.because.startswith("11 objects that no key opens were written since the last campaign")


def test_a_new_sweep_opens_every_batch_again() -> None:
    step = advance(replace(CAMPAIGN, sweeps=2), (batch(0, sweep=2), batch(1)), None, frozenset(), 0)
    assert step.action == Work((batch(1, sweep=2).spec,))


def test_an_attempt_of_a_later_sweep_begins_at_the_start_and_keeps_what_was_done() -> None:
    before = replace(batch(0), cursor=b"az", report=BatchReport(objects=3, rewritten=1, current=1, quarantined=1))
    begun = before.begun(replace(before.spec, sweep=2), 7.0)
    assert (begun.state, begun.cursor, begun.spec.sweep, begun.attempts) == (BatchState.RUNNING, b"", 2, 1)
    assert begun.report == BatchReport(objects=1, rewritten=1)


# ------------------------------------------------------------------------------------------------- failures and rests


def tried(number: int, stalled: int, at: float = 100.0, because: str = "") -> Checkpoint:
    known = replace(batch(number), state=BatchState.RUNNING)
    return replace(known, stalled=stalled, tried_at=at, because=because)


@pytest.mark.parametrize(
    ("stalled", "now", "is_due"),
    [
        pytest.param(0, 100.0, True, id="never failed => at once"),
        pytest.param(1, 100.0, True, id="failed once => at once"),
        pytest.param(2, 100.9, False, id="failed twice => a second later"),
        pytest.param(2, 101.0, True, id="failed twice, a second ago => again"),
        pytest.param(4, 103.9, False, id="failed again and again => later and later"),
        pytest.param(4, 104.0, True, id="in the end it is tried again"),
    ],
)
def test_a_batch_that_fails_is_tried_later_and_later(stalled: int, now: float, is_due: bool) -> None:
    step = advance(CAMPAIGN, (tried(0, stalled),), None, frozenset(), now)
    assert step.action == Work((tried(0, stalled).spec,) if is_due else ())


@pytest.mark.parametrize("stalled", [0, 1])
@pytest.mark.parametrize(("now", "is_due"), [(101.9, False), (102.0, True)])
def test_a_batch_that_failed_for_a_passing_reason_is_not_tried_again_at_once(
    stalled: int, now: float, is_due: bool
) -> None:
    failed = tried(0, stalled, because="the plugin does not answer")
    step = advance(CAMPAIGN, (failed,), None, frozenset(), now)
    assert step.action == Work((failed.spec,) if is_due else ())


def test_a_batch_that_comes_no_further_is_parked_with_its_reason() -> None:
    spent = tried(0, 5, because="it broke")
    step = advance(CAMPAIGN, (spent, tried(1, 0)), None, frozenset(), 1000.0)
    assert step.action == Park(replace(spent, state=BatchState.PARKED))
    assert step.because == "it failed again: it broke"


def test_a_batch_that_kills_whoever_works_on_it_is_parked_too() -> None:
    step = advance(CAMPAIGN, (tried(0, 5),), None, frozenset(), 1000.0)
    assert isinstance(step.action, Park)
    assert step.action.checkpoint.because == "the workers that claimed it ended without a report"


def test_a_batch_at_which_somebody_works_is_neither_parked_nor_given_out() -> None:
    step = advance(CAMPAIGN, (tried(0, 5), tried(1, 0)), None, frozenset({0}), 1000.0)
    assert step.action == Work((tried(1, 0).spec,))


def test_a_parked_batch_blocks_nothing_and_the_campaign_is_not_complete() -> None:
    parked = replace(tried(0, 5, because="it broke"), state=BatchState.PARKED)
    assert advance(CAMPAIGN, (parked, batch(1)), None, frozenset(), 0).action == Prove()
    step = advance(CAMPAIGN, (parked, batch(1)), ONE_STALE, frozenset(), 0)
    assert isinstance(step.action, Finish)
    assert step.action.campaign.state is CampaignState.INCOMPLETE
    assert "batch 0 is parked: it broke" in step.because


def test_a_parked_batch_is_opened_by_the_next_sweep() -> None:
    parked = replace(tried(0, 5), state=BatchState.PARKED)
    step = advance(replace(CAMPAIGN, sweeps=2), (parked,), None, frozenset(), 0)
    assert step.action == Work((replace(parked.spec, sweep=2),))


def test_a_paused_campaign_rests_whatever_is_open() -> None:
    paused = CAMPAIGN.paused(Pause.OPERATOR, "by hand")
    assert advance(paused, (tried(0, 0),), None, frozenset(), 0) == Step(Rest(), "by hand")


def test_an_attempt_without_progress_counts_until_a_page_is_done() -> None:
    begun = batch(0).begun(batch(0).spec, 7.0).begun(batch(0).spec, 8.0)
    assert (begun.stalled, begun.tried_at, begun.attempts) == (2, 8.0, 2)
    assert begun.advanced(b"b", BatchReport()).stalled == 0
    assert begun.failed("the world", counts=False).stalled == 1
    assert begun.failed("its own", counts=True) == replace(begun, because="its own")


@pytest.mark.parametrize("state", CampaignState)
def test_four_states_are_ends(state: CampaignState) -> None:
    ends = {CampaignState.COMPLETE, CampaignState.INCOMPLETE, CampaignState.SUPERSEDED, CampaignState.CANCELLED}
    assert state.is_end is (state in ends)


# ----------------------------------------------------------------------------------------------------------- removal

FREE = Surroundings("", campaign_unfinished=False, whole=True, proof_revision=70, compacted=True)


def blockers(scan: Inventory, key: KeyRef, around: Surroundings = FREE) -> tuple[str, ...]:
    found = {one.key: one for one in judge_keys(scan, around)}
    assert found[key].removable is (found[key].blockers == ())
    return found[key].blockers


@pytest.mark.parametrize(
    ("scan", "key", "first"),
    [
        pytest.param(CLEAN, OLD, (), id="nothing is under it, and nothing else speaks against it => it may go"),
        pytest.param(CLEAN, NEW, ("it is the primary of secrets", "5 objects are under it"), id="the primary stays"),
        pytest.param(ONE_STALE, OLD, ("1 objects are under it",), id="one object stale => its key stays"),
        pytest.param(
            ONE_UNREADABLE, OLD, ("1 unreadable objects may be under it",), id="one object unreadable => its key stays"
        ),
        pytest.param(
            proof(tally({NEW: 5}), tally({OLD: 2}, resource="events", primary=OLD)),
            OLD,
            ("it is the primary of events", "2 objects are under it"),
            id="the primary of another resource => it stays",
        ),
        pytest.param(
            proof(tally({NEW: 1, OLD: 3}, configured=(NEW, OLD, RENAMED))),
            RENAMED,
            ("3 objects are under it",),
            id="the same material under another name => the same objects",
        ),
        pytest.param(
            proof(tally({NEW: 1, PLAIN: 2})),
            PLAIN,
            ("2 objects are under it",),
            id="plaintext objects => identity stays",
        ),
    ],
)
def test_what_speaks_against_a_removal(scan: Inventory, key: KeyRef, first: tuple[str, ...]) -> None:
    assert blockers(scan, key) == first


@pytest.mark.parametrize(
    ("around", "blocker"),
    [
        pytest.param(replace(FREE, campaign_unfinished=True), UNFINISHED, id="an unfinished campaign"),
        pytest.param(replace(FREE, whole=False), PARTIAL, id="a scan of a part"),
        pytest.param(replace(FREE, unconverged="one lags"), "one lags", id="a kube-apiserver that lags"),
        pytest.param(replace(FREE, proof_revision=0), NEVER_PROVEN, id="no proof of a campaign"),
        pytest.param(
            replace(FREE, compacted=False),
            "etcd has not compacted past revision 70, where a scan found nothing under it: "
            "watches may still show older values",
            id="etcd still shows the past",
        ),
        pytest.param(
            replace(FREE, last_written={OLD.fingerprint: 71}),
            "a write under it was seen at revision 71, after the last proof at revision 70",
            id="somebody wrote with it after the proof",
        ),
    ],
)
def test_what_blocks_a_key_that_nothing_is_under(around: Surroundings, blocker: str) -> None:
    assert blockers(CLEAN, OLD, around) == (blocker,)


def test_what_was_written_before_the_proof_blocks_nothing() -> None:
    assert blockers(CLEAN, OLD, replace(FREE, last_written={OLD.fingerprint: 70, NEW.fingerprint: 99})) == ()


def test_keys_come_in_configured_order_each_once() -> None:
    scan = proof(tally({}), tally({}, resource="events", configured=(OLD, RENAMED)))
    keys = [one.key for one in judge_keys(scan, FREE)]
    assert keys == [NEW, OLD, PLAIN, RENAMED]


IDLE = KeyRef("secretbox", "idle", "4" * 16)


@pytest.mark.parametrize(
    ("scan", "key", "said"),
    [
        pytest.param(proof(), NEW, ("it is the primary of *.apps",), id="a wildcard, and nothing is there yet"),
        pytest.param(proof(), OLD, (), id="a key that only reads, and nothing is there"),
        pytest.param(
            CLEAN, NEW, ("it is the primary of secrets", "5 objects are under it"), id="what was scanned is named"
        ),
        pytest.param(CLEAN, IDLE, ("it is the primary of deploy, which governs nothing",), id="an idle name"),
    ],
)
def test_a_key_of_the_file_is_judged_whatever_was_there_to_be_scanned(
    scan: Inventory, key: KeyRef, said: tuple[str, ...]
) -> None:
    around = replace(FREE, chains=(("*.apps", (NEW, OLD)), ("deploy, which governs nothing", (IDLE,))))
    assert {one.key for one in judge_keys(scan, around)} >= {NEW, OLD, IDLE}
    assert blockers(scan, key, around) == said


VAULT = KeyRef("kms", "vault", "kms")


def test_a_kms_provider_is_judged_by_all_keys_of_its_name() -> None:
    kek, other = KeyRef("kms", "vault", "3" * 16), KeyRef("kms", "vault", "5" * 16)
    under = proof(tally({NEW: 5, kek: 2, other: 1}, configured=(NEW, VAULT)))
    assert blockers(under, VAULT)[0] == "3 objects are under it"
    writes = proof(tally({kek: 5}, primary=kek, configured=(VAULT, NEW)))
    assert blockers(writes, VAULT) == ("it is the primary of secrets", "5 objects are under it")
    assert blockers(proof(tally({NEW: 5}, configured=(NEW, VAULT))), VAULT) == ()
    written = replace(FREE, last_written={VAULT.fingerprint: 71})
    assert blockers(proof(tally({NEW: 5}, configured=(NEW, VAULT))), VAULT, written) != ()


def test_names_of_campaigns_sort_by_time_within_a_second() -> None:
    moments = [datetime(2026, 1, 1, 0, 0, 0, micros, UTC) for micros in (0, 300, 5_000, 999_000)]
    names = [new_id(now, chance) for now, chance in zip(moments, (b"\xff\xff", b"\x00\x00") * 2, strict=True)]
    assert names == sorted(set(names))
    assert {len(name) for name in names} == {len("20260101-000000-abcdef")}


# --------------------------------------------------------------------------------------------------- removal of KEKs

NOW_KEK, WAS, EARLIER = (KeyRef("kms", "cloud", digit * 16) for digit in "abc")
READS, READS_V1 = KeyRef("kms", "old", "v2"), KeyRef("kms", "older", "v1")
OF_READS, OF_V1, CBC_V1 = KeyRef("kms", "old", "d" * 16), KeyRef("kms", "older", "v1"), KeyRef("kms", "older", "v1-cbc")
CHAIN = (NOW_KEK, READS, READS_V1, PLAIN)
KEK = Kek(provider="cloud", target=f"sha256:{'a' * 64}", since=1.0, former=(f"sha256:{'b' * 64}",))


def under_kms(keys: dict[KeyRef, int], claimed: dict[KeyRef, int] | None = None) -> Inventory:
    found = tally(keys, primary=NOW_KEK, configured=CHAIN)
    found.claimed.update(claimed or {})
    return proof(found)


AROUND = replace(FREE, keks=(KEK,), chains=(("secrets", CHAIN),))


@pytest.mark.parametrize(
    ("scan", "around", "expected"),
    [
        pytest.param(
            under_kms({NOW_KEK: 5}),
            AROUND,
            [(NOW_KEK, 5, False), (WAS, 0, True), (READS, 0, True), (READS_V1, 0, True), (PLAIN, 0, True)],
            id="a former KEK on record, and nothing under it",
        ),
        pytest.param(
            under_kms({NOW_KEK: 5, replace(EARLIER, fingerprint=f"{'c' * 16}-type0"): 2}),
            AROUND,
            [(NOW_KEK, 5, False), (EARLIER, 2, False), (WAS, 0, True), *((key, 0, True) for key in CHAIN[1:])],
            id="a KEK that only values name",
        ),
        pytest.param(
            under_kms({OF_READS: 3, OF_V1: 1, CBC_V1: 1}),
            replace(AROUND, keks=()),
            [(NOW_KEK, 0, False), (READS, 3, False), (READS_V1, 2, False), (PLAIN, 0, True)],
            id="a provider that reads is one key, v1 whatever its cipher",
        ),
    ],
)
def test_each_kek_and_each_kms_provider_has_its_row(
    scan: Inventory, around: Surroundings, expected: list[tuple[KeyRef, int, bool]]
) -> None:
    assert [(one.key, one.objects, one.removable) for one in judge_keys(scan, around)] == expected


@pytest.mark.parametrize(
    ("claimed", "around", "blocker"),
    [
        pytest.param({}, replace(AROUND, lingering="one lags"), "one lags", id="left less than four minutes ago"),
        pytest.param({}, replace(AROUND, unconverged="one writes"), "one writes", id="a replica writes under it"),
        pytest.param(
            {},
            replace(AROUND, keks=(replace(KEK, named=KEK.former[0], named_since=2.0),)),
            "its plugin names it",
            id="it came back",
        ),
        pytest.param(
            {replace(NOW_KEK, fingerprint="kms"): 1}, AROUND, "1 unreadable objects may be under it", id="unreadable"
        ),
        pytest.param(
            {},
            replace(AROUND, last_written={"kms": 99, "kms-former": 71}),
            "a write under it or another former KMS key was seen at revision 71, after the last proof at revision 70",
            id="case 20: a replica wrote under it after the proof",
        ),
    ],
)
def test_what_speaks_against_a_former_kek(claimed: dict[KeyRef, int], around: Surroundings, blocker: str) -> None:
    assert blockers(under_kms({NOW_KEK: 5}, claimed), WAS, around) == (blocker,)


@pytest.mark.parametrize("fingerprint", ["2" * 16, "v1"])
def test_objects_that_could_not_be_counted_by_kek_speak_against_each_of_its_provider(fingerprint: str) -> None:
    primary, former = KeyRef("kms", "cloud", "1" * 16), KeyRef("kms", "cloud", fingerprint)
    found = tally({primary: 5}, primary=primary, configured=(primary, former, OLD))
    for number in range(200):
        found.add_readable(replace(primary, fingerprint=f"{number:016x}"), 300, 1)
    found.add_readable(former, 300, 1)
    found.add_readable(replace(former, name="another"), 300, 1)
    because = "2 objects name so many KEKs that they were counted together: some of them may be under it"
    assert blockers(proof(found), former) == (because,)
    assert because in blockers(proof(found), primary)
    assert blockers(proof(found), OLD) == ()


def test_writes_under_the_kek_in_force_speak_against_no_former_one() -> None:
    assert blockers(under_kms({NOW_KEK: 5}), WAS, replace(AROUND, last_written={"kms": 99})) == ()


def test_of_the_kek_of_a_v1_provider_nothing_is_said() -> None:
    writes = KeyRef("kms", "older", "v1")
    found = proof(tally({writes: 5}, primary=writes, configured=(writes,)))
    around = replace(AROUND, keks=(replace(KEK, provider="older"),), chains=(("secrets", (writes,)),))
    assert [(one.key, one.removable) for one in judge_keys(found, around)] == [(writes, False)]
