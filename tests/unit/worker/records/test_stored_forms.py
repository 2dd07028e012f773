"""Records as version 0.1 wrote them, byte by byte: they are read as before, and written the same but for new names."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.records.audit_chain import Head
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.holder import Handback, Holder
from kube_rewrap.worker.records.observed import Followed, Observations
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.rotation import RotationStep
from kube_rewrap.worker.records.table import Record
from kube_rewrap.worker.records.usage import DueByRate, Interval, Usage
from kube_rewrap.worker.verdict import KeyRef, Reason

KEYS = (KeyRef("aesgcm", "new", "0123456789abcdef"), KeyRef("identity", "", "-"))
WORKER = Holder("rewrap worker", "node-1", 42, "2026-01-01T00:00:00+00:00")

STORED: list[tuple[bytes, Record]] = [
    (
        b'{"hasty":{"aa":[200000,4000,1800]},"intervals":[[1700000000,60,{"aa":7}]],"v":1}',
        Usage((Interval(1_700_000_000, 60, {"aa": 7}),), {"aa": DueByRate(200_000, 4_000, 1_800)}),
    ),
    (
        (
            b'{"chains":[{"keys":[["aesgcm","new","0123456789abcdef"],["identity","","-"]],'
            b'"resources":["secrets","configmaps"]}],"file":"sha256:f","former":["sha256:a"],"hash":"sha256:b",'
            b'"settled":["secrets"],"sockets":[["v2:cloud","00ff"]],"v":1}'
        ),
        History(
            GenerationRecord(
                "sha256:b", (("secrets", KEYS), ("configmaps", KEYS)), "sha256:f", (("v2:cloud", "00ff"),)
            ),
            ("sha256:a",),
            frozenset({"secrets"}),
        ),
    ),
    (
        b'{"detail":"why","key":"/registry/secrets/a/\\udcff","mod_revision":7,"reason":"no_key_of_that_name","v":1}',
        QuarantinedObject(b"/registry/secrets/a/\xff", Reason.NO_SUCH_KEY, "why", 7),
    ),
    (b'{"hash":"ab","number":3,"oldest":2,"v":1}', Head(3, "ab", 2)),
    (b'{"command":"rewrap worker","host":"node-1","pid":42,"since":"2026-01-01T00:00:00+00:00","v":1}', WORKER),
    (
        (
            b'{"command":"rewrap worker","generation":"sha256:b","host":"node-1","pid":42,'
            b'"since":"2026-01-01T00:00:00+00:00","v":1}'
        ),
        Handback(WORKER, "sha256:b"),
    ),
    (
        (
            b'{"counts":{"aa":5},"followed":[{"secrets":[20,"aa","bb"]},{}],"last":{"aa":19},"replaced":[12,15],'
            b'"since":{"aa":1700000000},"v":1}'
        ),
        Observations(
            counts={"aa": 5},
            followed=(Followed({"secrets": 20}, {"secrets": ("aa", "bb")}), Followed({}, {})),
            last={"aa": 19},
            since={"aa": 1_700_000_000},
            replaced=(12, 15),
        ),
    ),
]


@pytest.mark.parametrize(("stored", "value"), STORED, ids=[type(value).__name__ for _, value in STORED])
def test_a_record_of_version_0_1_is_read_as_before(stored: bytes, value: Record) -> None:
    assert type(value).from_json(decode(b"/k", stored)) == value
    renamed = stored.replace(b'"hasty"', b'"due_by_rate"').replace(b'"settled"', b'"late_plaintext"')
    assert encode(value.to_json()) == renamed


def test_a_history_without_later_fields_has_no_former_generation() -> None:
    stored = b'{"chains":[{"keys":[["identity","","-"]],"resources":["secrets"]}],"hash":"sha256:b","v":1}'
    assert History.from_json(decode(b"/k", stored)) == History(GenerationRecord("sha256:b", (("secrets", KEYS[1:]),)))


def test_the_last_step_of_a_rotation_is_read_by_its_name_in_version_0_1() -> None:
    assert [RotationStep(name) for name in ("settle", "converge")] == [RotationStep.CONVERGE] * 2
    with pytest.raises(ValueError, match="settles"):
        RotationStep("settles")


def test_the_exact_reason_of_an_unauthenticated_value_is_replaced() -> None:
    stored = (
        b'{"detail":"aescbc:old (0123456789abcdef): bad padding","key":"/k","mod_revision":7,'
        b'"reason":"authentication_failed","v":1}'
    )
    read = QuarantinedObject.from_json(decode(b"/k", stored))
    assert (read.reason, "padding" in read.detail) == (Reason.NOT_RECOGNISED, False)
