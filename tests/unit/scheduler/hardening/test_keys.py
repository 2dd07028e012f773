"""Checks of the keys: each row differs from a good cluster in a budget, an age or a removal verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.hardening.facts import DAY, HardeningFacts, State
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.worker.verdict import KeyRef
from tests.unit.scheduler.hardening.cluster import (
    BOTH,
    FAIL,
    GCM,
    GCM_TWO,
    GOOD,
    NOW,
    OF_KMS,
    ONLY_IDENTITY,
    PASS,
    PLAIN,
    UNKNOWN,
    WARN,
    WITH_OLD,
    entries,
    facts,
    kms,
    old_key,
    require,
    used,
)

KEK = {"vault": f"sha256:{'0123456789abcdef' * 4}"}
OF_KEK = replace(OF_KMS, generation=describe(Generation("sha256:0", OF_KMS.configuration, "enc.yaml").aimed(KEK)))

ROWS = [
    (
        "a budget at 80 % => warn",
        "write-budget",
        used(160_000),
        WARN,
        f"due for rotation: {GCM}: 160000 of 200000 writes",
    ),
    (
        "a budget at its limit => fail",
        "write-budget",
        used(200_000),
        FAIL,
        f"no write is left to {GCM}: 200000 of 200000 writes",
    ),
    ("a restored budget => fail", "write-budget", used(1, restored=True), FAIL, f"no write is left to {GCM}: restored"),
    (
        "an exhausted key that only reads => warn",
        "write-budget",
        WITH_OLD,
        WARN,
        f"exhausted, though it only reads: {GCM_TWO}: 200000 of 200000 writes",
    ),
    (
        "no budget on record => unknown",
        "write-budget",
        replace(GOOD, budgets={}),
        UNKNOWN,
        f"no write budget is on record for {GCM}",
    ),
    (
        "no scheduler counts other clients' writes => unknown",
        "write-budget",
        replace(GOOD, watched={}),
        UNKNOWN,
        f"no scheduler counts kube-apiserver's writes with {GCM}; within its limit without them",
    ),
    ("no key that wears => pass", "write-budget", OF_KMS, PASS, "no primary key has a limit"),
    (
        "a rotation made the key too long ago => warn",
        "key-age",
        replace(GOOD, made={GCM.fingerprint: NOW - 91 * DAY}),
        WARN,
        f"older than 90 days: {GCM} (91 days or more)",
    ),
    (
        "the key was seen too long ago => warn, though its age is unknown",
        "key-age",
        replace(GOOD, made={}, watched={GCM.fingerprint: NOW - 200 * DAY}),
        WARN,
        f"older than 90 days: {GCM} (200 days or more)",
    ),
    (
        "the file has not changed for too long => its keys are as old => warn",
        "key-age",
        replace(GOOD, made={}, file=replace(GOOD.file, changed_at=NOW - 100 * DAY)),
        WARN,
        f"older than 90 days: {GCM} (100 days or more)",
    ),
    (
        "the key was first seen lately => unknown, for it may be older",
        "key-age",
        replace(GOOD, made={}),
        UNKNOWN,
        f"no record shows its age: {GCM} (at least 5 days)",
    ),
    (
        "a KMS writes => unknown",
        "key-age",
        OF_KMS,
        UNKNOWN,
        "no record shows its age: kms:vault (v2) (only its KMS knows)",
    ),
    (
        "a KMS writes under a KEK that is on record => unknown, with the least age",
        "key-age",
        replace(OF_KEK, keks={("vault", "0123456789abcdef"): NOW - 20 * DAY}),
        UNKNOWN,
        "no record shows its age: kms:vault (0123456789abcdef) (at least 20 days)",
    ),
    (
        "a KMS writes under another KEK than the one on record => unknown",
        "key-age",
        replace(OF_KEK, keks={("vault", "other"): NOW - 200 * DAY, ("other", "0123456789abcdef"): NOW - 200 * DAY}),
        UNKNOWN,
        "no record shows its age: kms:vault (0123456789abcdef) (only its KMS knows)",
    ),
    (
        "a KEK has been on record for too long => warn",
        "key-age",
        replace(OF_KEK, keks={("vault", "0123456789abcdef"): NOW - 200 * DAY}),
        WARN,
        "older than 90 days: kms:vault (0123456789abcdef) (200 days or more)",
    ),
    ("nothing is written with a key => no age", "key-age", ONLY_IDENTITY, PASS, "nothing is written with a key"),
    ("an old key without blockers => warn", "old-keys", old_key(), WARN, f"may be removed: {GCM_TWO}"),
    (
        "an old key with blockers, and nothing under it => pass, and the first blocker is told",
        "old-keys",
        old_key("etcd has not compacted", "more"),
        PASS,
        f"no readable object is under these, which can't be removed yet: {GCM_TWO}: etcd has not compacted",
    ),
    (
        "two old keys with one blocker => it is told once",
        "old-keys",
        replace(
            GOOD,
            keys=(
                *GOOD.keys,
                KeyVerdict(KeyRef("aesgcm", "first", "1" * 16), 0, ("etcd has not compacted",)),
                KeyVerdict(KeyRef("aesgcm", "second", "2" * 16), 0, ("etcd has not compacted",)),
            ),
        ),
        PASS,
        (
            "no readable object is under these, which can't be removed yet: "
            "aesgcm:first (1111111111111111), aesgcm:second (2222222222222222): etcd has not compacted"
        ),
    ),
    (
        "objects under the old key => pass: it is in use",
        "old-keys",
        old_key("4 objects are under it", objects=4),
        PASS,
        "every configured key is in use",
    ),
    (
        "one KMS provider writes, another has no object => pass, and that one is told",
        "old-keys",
        replace(
            facts(entries((BOTH, [kms("v2"), kms("v2", "other")]))),
            keys=(
                KeyVerdict(KeyRef("kms", "vault", "kms"), 5, ("it is the primary of secrets",)),
                KeyVerdict(KeyRef("kms", "other", "kms"), 0, ("etcd has not compacted",)),
            ),
        ),
        PASS,
        "no readable object is under these, which can't be removed yet: kms:other (kms): etcd has not compacted",
    ),
    (
        "identity could be removed => judged elsewhere",
        "old-keys",
        replace(GOOD, keys=(*GOOD.keys, KeyVerdict(PLAIN, 0, ()))),
        PASS,
        "every configured key is in use",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "state", "reason"), [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}") for row in ROWS]
)
def test_what_is_found(name: str, given: HardeningFacts, state: State, reason: str) -> None:
    require(given, name, state, reason)
