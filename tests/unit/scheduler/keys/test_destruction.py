"""A key is destroyable only when no blocker's condition holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.scheduler.backups.catalogue import Backup, Catalogue, DamagedLine, moment
from kube_rewrap.scheduler.keys.destruction import (
    IN_FILE,
    NO_FILE,
    NO_KEK,
    NO_SPARE,
    NOT_SCANNED,
    OLD_CATALOGUE,
    Candidate,
    Destruction,
    judge_destruction,
)
from kube_rewrap.worker.verdict import KeyRef
from tests.unit.scheduler.backups.backups import DAY, KEK, NEW, NOW, OLD, backup

GONE = Candidate(OLD, ("old",), ("archive/enc.1",), configured=False, removable=None, in_use=0, cluster=())
GONE_KEK = replace(GONE, key=KEK, names=("cloud",), files=())
SINCE = 11
SPARE = backup(1)
NEEDING = backup(2, keys=(OLD, NEW), expires=NOW + DAY)
TYPE0 = replace(KEK, fingerprint=f"{KEK.fingerprint}-type0")
RENAMED_KEK, SECOND_KEK = replace(KEK, name="other"), replace(KEK, fingerprint=f"{KEK.fingerprint}-type0#2")
TWIN = KeyRef("secretbox", "old", "00000000000000aa")
GONE_TWIN = replace(GONE, also=(TWIN,))
OUTSIDE = "/kubernetes.io/"
DAMAGED = DamagedLine(3, "0" * 64, "torn")


@dataclass(frozen=True)
class Row:
    says: str
    backups: tuple[Backup, ...]
    blocker: str
    candidate: Candidate = GONE
    damaged: tuple[DamagedLine, ...] = ()
    present: frozenset[str] = frozenset()
    distrust: str = ""


ROWS = [
    Row("nothing needs it", (SPARE,), ""),
    Row("a KEK that nothing needs, in no file", (SPARE,), "", GONE_KEK),
    Row("the present file has it", (SPARE,), IN_FILE, replace(GONE, configured=True)),
    Row("the cluster was not scanned", (SPARE,), NOT_SCANNED, replace(GONE, cluster=(NOT_SCANNED,))),
    Row("objects are under it", (SPARE,), "5 objects are under it", replace(GONE, cluster=("5 objects are under it",))),
    Row("no file has it", (SPARE,), NO_FILE, replace(GONE, files=())),
    Row("a backup needs it", (SPARE, NEEDING), "backups need it: "),
    Row("a backup that needs it has expired", (SPARE, replace(NEEDING, expires=moment(NOW - DAY))), ""),
    Row(
        "a backup has expired, and is still there",
        (SPARE, replace(NEEDING, expires=moment(NOW - DAY))),
        "backups need it: ",
        present=frozenset({NEEDING.digest}),
    ),
    Row("a backup needs it under another name", (SPARE, backup(2, keys=(replace(OLD, name="x"),))), "backups need it"),
    Row("other material of its name", (SPARE, backup(2, keys=(replace(OLD, fingerprint="f" * 16),))), ""),
    Row("another provider's key of the same digits", (SPARE, backup(2, keys=(replace(OLD, provider="aesgcm"),))), ""),
    Row("older revisions are under it", (SPARE, backup(2, history_keys=(OLD,))), "older revisions in backups"),
    Row("a backup is not readable", (SPARE, backup(2, readable=False)), "backups that were not readable whole"),
    Row("a key is not known", (SPARE, backup(2, unknown_keys=(KeyRef("aescbc", "x", ""),))), "a key that is not known"),
    Row("keys too many to name", (SPARE, backup(2, unknown_keys=(KeyRef("", "others", ""),))), "a key that is not"),
    Row("an unknown key of another provider", (SPARE, backup(2, unknown_keys=(KeyRef("aesgcm", "old", ""),))), ""),
    Row("another registry in a backup", (SPARE, backup(2, prefix="/registry/", outside=(OUTSIDE,))), "not looked at"),
    Row(
        "a value at no resource's path",
        (SPARE, backup(2, prefix="/registry/", outside=("/registry/",))),
        "not looked at",
    ),
    Row(
        "another registry that was added, too",
        (SPARE, backup(2, prefix="/registry/", outside=(OUTSIDE,)), backup(2, prefix=OUTSIDE, outside=("/registry/",))),
        "",
    ),
    Row("a line is damaged", (SPARE,), "damaged lines of the catalogue", damaged=(DAMAGED,)),
    Row("another user could have written it", (SPARE,), "another user could", distrust="it belongs to another user"),
    Row("no backup was ever added", (), NO_SPARE),
    Row("every backup has expired", (backup(1, expires=NOW - 1),), NO_SPARE),
    Row("the only one left expired a second ago", (backup(1, expires=NOW - 1),), NO_SPARE),
    Row("it is still there", (backup(1, expires=NOW - 1),), "", present=frozenset({SPARE.digest})),
    Row("the only one left holds no object", (backup(1, objects=0),), NO_SPARE),
    Row("the only one left is of another etcd prefix", (backup(1, prefix="/kubernetes.io/"),), NO_SPARE),
    Row("one of this etcd prefix is left", (backup(1, prefix="/registry/"),), ""),
    Row("the only one left is of an earlier configuration", (backup(1, revision=SINCE - 1),), OLD_CATALOGUE),
    Row("a later one needs it", (backup(1, revision=5), replace(NEEDING, revision=99)), OLD_CATALOGUE),
    Row("a value of source type 0", (SPARE, backup(2, keys=(TYPE0,))), "backups need it", GONE_KEK),
    Row("a KEK of another key id", (SPARE, backup(2, keys=(replace(KEK, fingerprint="f" * 16),))), "", GONE_KEK),
    Row(
        "its key id under another provider's name", (SPARE, backup(2, keys=(RENAMED_KEK,))), "backups need it", GONE_KEK
    ),
    Row("its key id under the second of a name", (SPARE, backup(2, keys=(SECOND_KEK,))), "backups need it", GONE_KEK),
    Row(
        "its key id as the second of a name",
        (SPARE, backup(2, keys=(KEK,))),
        "need it",
        replace(GONE_KEK, key=SECOND_KEK),
    ),
    Row("KMS v1 of another provider", (SPARE, backup(2, keys=(KeyRef("kms", "x", "v1"),))), "is not known", GONE_KEK),
    Row("older KMS v1", (SPARE, backup(2, history_keys=(KeyRef("kms", "x", "v1-cbc"),))), "is not known", GONE_KEK),
    Row("too many KEKs of another", (SPARE, backup(2, keys=(KeyRef("kms", "x", "others"),))), "is not known", GONE_KEK),
    Row("its bytes as another provider's key", (SPARE, backup(2, keys=(TWIN,))), "the same key bytes", GONE_TWIN),
    Row("its bytes in older revisions", (SPARE, backup(2, history_keys=(TWIN,))), "the same key bytes", GONE_TWIN),
    Row("KEKs counted together", (SPARE, backup(2, keys=(KeyRef("kms", "cloud", "others"),))), "need", GONE_KEK),
    Row("values of KMS v1 of its provider", (SPARE, backup(2, keys=(KeyRef("kms", "cloud", "v1"),))), "need", GONE_KEK),
    Row("a provider of KMS v1", (SPARE,), NO_KEK, replace(GONE_KEK, key=KeyRef("kms", "cloud", "v1"))),
]


def judge(row: Row) -> Destruction:
    catalogue = Catalogue(row.backups, row.damaged, distrust=row.distrust, present=row.present)
    [verdict] = judge_destruction([row.candidate], catalogue, NOW, SINCE, "/registry/")
    return verdict


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_each_blocker(row: Row) -> None:
    verdict = judge(row)
    assert verdict.destroyable is (not row.blocker), verdict.blockers
    assert any(row.blocker in one for one in verdict.blockers) or not row.blocker


def test_how_many_backups_need_it_and_until_when() -> None:
    later = backup(3, history_keys=(OLD,), expires=NOW + 2 * DAY)
    verdict = judge(Row("", (SPARE, NEEDING, later), ""))
    assert (verdict.needed_by, verdict.until) == (2, moment(NOW + 2 * DAY))
    forever = judge(Row("", (SPARE, NEEDING, replace(later, expires=None)), ""))
    assert (forever.needed_by, forever.until) == (2, None)
    assert judge(Row("", (SPARE,), "")).until is None


UNKNOWN = KeyRef("aescbc", "y", "")
KEYS = st.sampled_from([OLD, replace(OLD, name="x"), NEW, KEK])
BACKUPS = st.builds(
    backup,
    st.integers(1, 5),
    expires=st.sampled_from([None, NOW - DAY, NOW - 1, NOW + 1]),
    revision=st.sampled_from([SINCE - 1, SINCE]),
    readable=st.booleans(),
    keys=st.lists(KEYS, max_size=2).map(tuple),
    history_keys=st.lists(KEYS, max_size=2).map(tuple),
    unknown_keys=st.lists(st.sampled_from([UNKNOWN, replace(UNKNOWN, provider="aesgcm")]), max_size=1).map(tuple),
)


@given(
    st.lists(BACKUPS, max_size=5, unique_by=lambda one: one.digest).map(tuple),
    st.booleans(),
    st.sampled_from([(), ("objects",)]),
    st.sampled_from([(), (DAMAGED,)]),
    st.sampled_from(["", "another"]),
    st.frozensets(st.integers(1, 5).map(lambda number: f"{number:064x}")),
    st.sampled_from([(), ("archive",)]),
)
def test_no_key_is_destroyable_while_a_condition_holds(  # noqa: PLR0917 - one argument a condition
    backups: tuple[Backup, ...],
    configured: bool,
    cluster: tuple[str, ...],
    damaged: tuple[DamagedLine, ...],
    distrust: str,
    present: frozenset[str],
    files: tuple[str, ...],
) -> None:
    candidate = replace(GONE, configured=configured, cluster=cluster, files=files)
    verdict = judge(Row("", backups, "", candidate, damaged, present, distrust))
    # Said once more, by the words of the rules and not by the code.
    late = moment(NOW - DAY)
    there = [one for one in backups if one.expires is None or one.expires > late or one.digest in present]
    spare = [one for one in there if one.expires is None or one.expires > moment(NOW) or one.digest in present]
    under = [any(key.fingerprint == OLD.fingerprint for key in (*one.keys, *one.history_keys)) for one in there]
    conditions = [
        configured,
        bool(cluster),
        bool(damaged),
        bool(distrust),
        not configured and not files,
        any(under),
        any(not one.readable for one in there),
        any(key.provider == "aescbc" for one in there for key in one.unknown_keys),
        not any(one.revision >= SINCE for one in spare),
    ]
    assert verdict.destroyable is not any(conditions)
