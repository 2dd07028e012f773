"""Which key and which KEK may go, and what speaks against it: scenarios."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.scheduler.keys.removal import NEVER_PROVEN, PARTIAL, UNFINISHED, Surroundings, judge_keys
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.verdict import KeyRef
from tests.unit.scheduler.inventories import CLEAN, NEW, OLD, ONE_STALE, ONE_UNREADABLE, PLAIN, RENAMED, proof, tally

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
