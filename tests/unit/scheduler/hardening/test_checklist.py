"""The hardening checklist: a good cluster passes everything, and each row spoils one thing of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import RotationSettings, Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence, Replica, ReplicaState
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.scheduler.hardening.checklist import CHECKS, judge, summarise
from kube_rewrap.scheduler.hardening.facts import DAY, Ages, Check, Facts, FileFacts, State
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.worker.etcd.grants import Access, Exposure
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason

NOW = 1_000 * DAY
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)
MATERIAL = {"one": b"CanaryKey-one-0123456789-abcdef!", "two": b"CanaryKey-two-0123456789-abcdef!"}
NEVER = "no complete campaign over everything is on record under this configuration"
NOTHING = "a client without certificate and password gets nothing"
SHARED = "the same key material serves as more than one key"
DEFAULT = "taken for etcd's default (--quota-bytes says better)"
IDENTITY = IdentityProvider()
WARN, FAIL, UNKNOWN, PASS = State.WARN, State.FAIL, State.UNKNOWN, State.PASS

IDS = [
    "primary-encrypts",
    "secrets-covered",
    "configmaps-covered",
    "plaintext",
    "readable",
    "current",
    "proof-age",
    "aescbc",
    "aesgcm-rotation",
    "kms-v1",
    "identity-reads",
    "write-budget",
    "key-age",
    "key-material",
    "key-names",
    "old-keys",
    "file-mode",
    "file-owner",
    "directory-mode",
    "etcd-tls",
    "etcd-access",
    "converged",
    "space",
]


def keyed(provider: str, *names: str, material: str = "") -> KeyedProvider:
    keys = (Key(name, SecretBytes(MATERIAL[material or name])) for name in names)
    return KeyedProvider(ProviderType(provider), tuple(keys))


def kms(version: str) -> KmsProvider:
    return KmsProvider("v1" if version == "v1" else "v2", "vault", "unix:///kms.sock", 3.0, None)


def ref(provider: str, name: str) -> KeyRef:
    return KeyRef(provider, name, SecretBytes(MATERIAL[name]).fingerprint(provider))


def entries(*pairs: tuple[Sequence[str], Sequence[Provider]]) -> EncryptionConfiguration:
    return EncryptionConfiguration(tuple(ResourceEntry(tuple(names), tuple(chain)) for names, chain in pairs))


BOTH = ("secrets", "configmaps")
GCM, GCM_TWO, BOX = ref("aesgcm", "one"), ref("aesgcm", "two"), ref("secretbox", "one")


def tally(
    under: dict[KeyRef, int], *reasons: Reason, resource: str = "secrets", configured: tuple[KeyRef, ...] = (GCM,)
) -> ResourceTally:
    found = ResourceTally(resource, configured[0], configured)
    for key, count in under.items():
        for _ in range(count):
            found.add_readable(key, 100, 1)
    for number, reason in enumerate(reasons):
        found.add_unreadable(b"/registry/%s/n/o%d" % (resource.encode(), number), Quarantine(reason, "why"))
    return found


def proof(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> Inventory:
    return Inventory(77, tallies, unknown)


def facts(configuration: EncryptionConfiguration | None = None) -> Facts:
    """A cluster where nothing is to be found fault with; another configuration changes that alone."""
    configuration = configuration or entries((BOTH, [keyed("aesgcm", "one")]))
    return Facts(
        settings=Settings(rotation=RotationSettings(auto=True)),
        ages=Ages(90 * DAY, 7 * DAY),
        now=NOW,
        configuration=configuration,
        generation=describe(Generation("sha256:0", configuration, "enc.yaml")),
        proof=proof(tally({GCM: 3}), tally({GCM: 2}, resource="configmaps")),
        keys=(KeyVerdict(GCM, 5, ("it is the primary of secrets",)),),
        convergence=Convergence(is_converged=True, generation="sha256:0", because="all kube-apiservers (3) run it"),
        budgets={GCM.fingerprint: Budget(GCM.fingerprint, "aesgcm", ("one",), reserved=10)},
        watched={GCM.fingerprint: NOW - 5 * DAY},
        made={GCM.fingerprint: NOW - 10 * DAY},
        file=FileFacts("/etc/enc.yaml", 0o600, 0, NOW - DAY, (("/etc", 0o755),)),
        exposures=(Exposure("https://10.0.0.1:2379", secure=True, local=False, access=Access.REFUSES),),
        proof_revision=70,
        proven_at=NOW - 2 * DAY,
        quarantined=(),
        stuck=0,
        room=Room(50, 100, None),
        quota_told=True,
        silent=(),
    )


GOOD = facts()


def line(given: Facts, name: str) -> Check:
    [found] = [check for check in judge(given) if check.id == name]
    return found


def test_a_good_cluster_passes_every_check_without_a_remedy() -> None:
    checks = judge(GOOD)
    assert [(check.id, check.state, check.remedy) for check in checks] == [(name, PASS, "") for name in IDS]
    assert all(check.reason for check in checks)
    assert summarise(checks) == {"pass": len(CHECKS), "warn": 0, "fail": 0, "unknown": 0}


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("name", "configuration", "state", "reason"),
    [
        pytest.param(
            "primary-encrypts",
            entries((["secrets"], [keyed("aesgcm", "one")]), (["events", "*.apps"], [IDENTITY])),
            FAIL,
            "events, *.apps: written in plaintext, for identity is the first provider",
            id="identity is the first provider of one entry => fail, and its resources are named",
        ),
        pytest.param(
            "secrets-covered",
            entries((["configmaps"], [keyed("aesgcm", "one")])),
            FAIL,
            "no entry covers secrets: kube-apiserver writes them in plaintext",
            id="no entry covers secrets => fail",
        ),
        pytest.param(
            "secrets-covered",
            entries((["secrets"], [IDENTITY, keyed("aesgcm", "one")])),
            FAIL,
            "identity is the first provider of secrets: kube-apiserver writes them in plaintext",
            id="secrets are named, and written in plaintext => fail",
        ),
        pytest.param(
            "secrets-covered",
            entries((["*.*"], [kms("v2")])),
            PASS,
            "secrets are written with kms",
            id="a wildcard covers secrets => pass",
        ),
        pytest.param(
            "configmaps-covered",
            entries((["secrets"], [keyed("aesgcm", "one")])),
            WARN,
            "no entry covers configmaps: kube-apiserver writes them in plaintext",
            id="no entry covers configmaps => warn",
        ),
        pytest.param(
            "aescbc",
            entries((["secrets"], [keyed("aescbc", "one")])),
            WARN,
            "secrets: written with aescbc, which does not notice that a value was tampered with",
            id="aescbc writes => warn",
        ),
        pytest.param(
            "aescbc",
            entries((["secrets"], [keyed("secretbox", "one"), keyed("aescbc", "two")])),
            PASS,
            "nothing is written with aescbc",
            id="aescbc only reads => pass",
        ),
        pytest.param(
            "aesgcm-rotation",
            entries((["secrets"], [keyed("secretbox", "one")])),
            PASS,
            "nothing is written with aesgcm",
            id="aesgcm does not write => pass",
        ),
        pytest.param(
            "kms-v1",
            entries((["secrets"], [kms("v1")])),
            FAIL,
            "vault: writes by KMS v1, which is deprecated",
            id="KMS v1 writes => fail",
        ),
        pytest.param(
            "kms-v1",
            entries((["secrets"], [keyed("aesgcm", "one"), kms("v1")])),
            WARN,
            "vault: may read by KMS v1, which is deprecated",
            id="KMS v1 only reads => warn",
        ),
        pytest.param(
            "kms-v1",
            entries((["secrets"], [kms("v2")])),
            PASS,
            "no provider speaks KMS v1",
            id="KMS v2 => pass",
        ),
        pytest.param(
            "key-material",
            entries((["secrets"], [keyed("aesgcm", "one")]), (["configmaps"], [keyed("aesgcm", "one")])),
            PASS,
            "no key material serves as two keys",
            id="one key in two entries => pass: it is seen, and has one budget",
        ),
        pytest.param(
            "key-material",
            entries(
                (["secrets"], [keyed("aesgcm", "one")]), (["configmaps"], [keyed("aesgcm", "two", material="one")])
            ),
            WARN,
            f"{SHARED}: resources[0] aesgcm 'one' = resources[1] aesgcm 'two'",
            id="the same bytes under two names => warn",
        ),
        pytest.param(
            "key-material",
            entries((["secrets"], [keyed("aesgcm", "one"), keyed("secretbox", "two", material="one")])),
            WARN,
            f"{SHARED}: resources[0] aesgcm 'one' = resources[0] secretbox 'two'",
            id="the same bytes for two providers => warn, though their fingerprints differ",
        ),
        pytest.param(
            "key-names",
            entries((["secrets"], [keyed("aesgcm", "one"), keyed("aesgcm", "one", material="two")])),
            WARN,
            "two keys have one name: 'one'",
            id="two keys of one name => warn",
        ),
        pytest.param(
            "key-names",
            entries((["secrets"], [keyed("aesgcm", "one")]), (["configmaps"], [keyed("aesgcm", "one")])),
            PASS,
            "every key has a name of its own",
            id="one key twice is one key => pass",
        ),
    ],
)
def test_what_the_configuration_says(
    name: str, configuration: EncryptionConfiguration, state: State, reason: str
) -> None:
    check = line(facts(configuration), name)
    assert (check.state, check.reason) == (state, reason)
    assert bool(check.remedy) == (state is not PASS)


def test_aesgcm_without_a_rotation_by_itself_warns() -> None:
    check = line(replace(GOOD, settings=Settings()), "aesgcm-rotation")
    assert (check.state, check.reason) == (
        WARN,
        "secrets, configmaps: written with aesgcm, which wears out, and these settings rotate no key by themselves",
    )


# ---------------------------------------------------------------------------------------------------------- the rest

NOBODY = Convergence(is_converged=False, generation="sha256:0", because="no address of a kube-apiserver is given")
LAGGING = Replica("https://a", "", "", ReplicaState.OTHER, "sha256:1", "https://a runs sha256:1")
WITH_OLD = replace(
    facts(entries((BOTH, [keyed("aesgcm", "one", "two")]))),
    keys=(*GOOD.keys, KeyVerdict(GCM_TWO, 0, ())),
    budgets={**GOOD.budgets, GCM_TWO.fingerprint: Budget(GCM_TWO.fingerprint, "aesgcm", reserved=200_000)},
)
OF_KMS = facts(entries((BOTH, [kms("v2")])))
ONLY_IDENTITY = facts(entries((BOTH, [IDENTITY])))


def used(count: int, *, restored: bool = False) -> Facts:
    return replace(
        GOOD, budgets={GCM.fingerprint: Budget(GCM.fingerprint, "aesgcm", reserved=count, restored=restored)}
    )


def scanned(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> Facts:
    return replace(GOOD, proof=proof(*tallies, unknown=unknown))


def under_kms(*others: Reason) -> Facts:
    vault = KeyRef("kms", "vault", "kms")
    found = tally({GCM: 1}, *others, configured=(GCM, vault))
    for name in (b"k1", b"k2"):
        found.add_unreadable(b"/registry/secrets/n/" + name, Quarantine(Reason.KMS_REFUSED, "why", (vault,)))
    return scanned(found)


def old_key(*blockers: str, objects: int = 0) -> Facts:
    return replace(WITH_OLD, keys=(*GOOD.keys, KeyVerdict(GCM_TWO, objects, blockers)))


def endpoint(url: str, access: Access, because: str = "", *, secure: bool = True, local: bool = False) -> Facts:
    return replace(GOOD, exposures=(*GOOD.exposures, Exposure(url, secure, local, access, because)))


def file(mode: int = 0o600, owner: int = 0, directory: int = 0o700) -> Facts:
    return replace(GOOD, file=FileFacts("/e/enc.yaml", mode, owner, NOW - DAY, (("/e", directory),)))


FULL = "etcd would hold 81.0 MiB, past 80% of its quota of 100.0 MiB"
PASSED_OVER = ("/x/",)

OPAQUE = "but 2 objects under KMS can't be opened by this version"

ROWS = [
    # What is stored.
    (
        "plaintext left under a resource => fail, counted by resource",
        "plaintext",
        scanned(
            tally({GCM: 1, PLAIN: 2}, configured=(GCM, PLAIN)), tally({PLAIN: 1}, resource="x", configured=(GCM, PLAIN))
        ),
        FAIL,
        "3 objects are stored in plaintext: secrets 2, x 1",
    ),
    (
        "plaintext that identity may not even read => fail",
        "plaintext",
        scanned(tally({GCM: 1}, Reason.IDENTITY_MISSING)),
        FAIL,
        "1 objects are stored in plaintext: secrets 1",
    ),
    (
        "paths that nobody knows => whether there is plaintext is unknown",
        "plaintext",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "none of 1 objects is in plaintext, but paths that no table knows were not looked at: /x/",
    ),
    (
        "an unreadable object => fail, and it is named",
        "readable",
        scanned(tally({GCM: 1}, Reason.NO_SUCH_KEY)),
        FAIL,
        "1 objects can't be read, 0 more are in quarantine: /registry/secrets/n/o0 (no_key_of_that_name)",
    ),
    (
        "a readable object in quarantine => fail",
        "readable",
        replace(GOOD, quarantined=("/registry/secrets/n/big (too_large_after_encryption)",), stuck=1),
        FAIL,
        "0 objects can't be read, 1 more are in quarantine: /registry/secrets/n/big (too_large_after_encryption)",
    ),
    (
        "paths that nobody knows => whether all can be read is unknown",
        "readable",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "1 objects can be read, but paths that no table knows were not looked at: /x/",
    ),
    (
        "objects under an older key => warn; plaintext is not counted again",
        "current",
        scanned(tally({GCM: 1, GCM_TWO: 4, PLAIN: 2}, configured=(GCM, GCM_TWO, PLAIN))),
        WARN,
        "4 objects are under older keys: secrets 4",
    ),
    (
        "paths that nobody knows => whether all is current is unknown",
        "current",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "nothing is under an older key, but paths that no table knows were not looked at: /x/",
    ),
    (
        "no campaign is on record, and this scan is clean => warn",
        "proof-age",
        replace(GOOD, proof_revision=0, proven_at=None),
        WARN,
        f"{NEVER}; this scan found everything under its primary key",
    ),
    (
        "no campaign is on record, and this scan is not clean => fail",
        "proof-age",
        replace(scanned(tally({GCM_TWO: 1})), proof_revision=0, proven_at=None),
        FAIL,
        f"{NEVER}; this scan did not find everything under its primary key",
    ),
    (
        "the last proof is older than it may be => warn",
        "proof-age",
        replace(GOOD, proven_at=NOW - 9 * DAY),
        WARN,
        "everything was proven 9 days ago, at revision 70, which is more than 7 days",
    ),
    (
        "the last proof has no time on record => unknown",
        "proof-age",
        replace(GOOD, proven_at=None),
        UNKNOWN,
        "the campaign proven at revision 70 does not say when it ended",
    ),
    (
        "identity may read, and nothing is in plaintext => warn",
        "identity-reads",
        scanned(tally({GCM: 1}, configured=(GCM, PLAIN))),
        WARN,
        "secrets: nothing is in plaintext, and identity may still read",
    ),
    (
        "identity still has plaintext to read => pass",
        "identity-reads",
        scanned(tally({PLAIN: 1}, configured=(GCM, PLAIN))),
        PASS,
        "secrets: identity still has to read",
    ),
    (
        "identity writes => no question of this check",
        "identity-reads",
        scanned(tally({PLAIN: 1}, configured=(PLAIN, GCM))),
        PASS,
        "identity reads nothing that it does not write",
    ),
    (
        "objects under KMS => encrypted, whatever is in them",
        "plaintext",
        under_kms(),
        PASS,
        "none of 3 objects is in plaintext",
    ),
    (
        "objects under KMS => whether they can be read is unknown",
        "readable",
        under_kms(),
        UNKNOWN,
        f"1 objects can be read, {OPAQUE}",
    ),
    (
        "an unreadable object beside those under KMS => fail for that one",
        "readable",
        under_kms(Reason.NO_SUCH_KEY),
        FAIL,
        "1 objects can't be read, 0 more are in quarantine: /registry/secrets/n/o0 (no_key_of_that_name)",
    ),
    (
        "objects under KMS => whether they are current is unknown",
        "current",
        under_kms(),
        UNKNOWN,
        f"nothing is under an older key, {OPAQUE}",
    ),
    (
        "objects under KMS, and no campaign on record => unknown",
        "proof-age",
        replace(under_kms(), proof_revision=0, proven_at=None),
        UNKNOWN,
        "2 objects under KMS can't be opened by this version, so nothing can be proven of them",
    ),
    # Keys.
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
        "a worn key that only reads => warn",
        "write-budget",
        WITH_OLD,
        WARN,
        f"worn out, though it only reads: {GCM_TWO}: 200000 of 200000 writes",
    ),
    (
        "no budget on record => unknown",
        "write-budget",
        replace(GOOD, budgets={}),
        UNKNOWN,
        f"no write budget is on record for {GCM}",
    ),
    (
        "nobody watches what others write => unknown",
        "write-budget",
        replace(GOOD, watched={}),
        UNKNOWN,
        f"nobody counts what kube-apiserver writes with {GCM}; within its limit as far as known",
    ),
    ("no key that wears => pass", "write-budget", OF_KMS, PASS, "no key that writes wears out"),
    (
        "a rotation made the key too long ago => warn",
        "key-age",
        replace(GOOD, made={GCM.fingerprint: NOW - 91 * DAY}),
        WARN,
        f"older than 90 days: {GCM} (91 days or more)",
    ),
    (
        "the key was seen too long ago => warn, though nobody knows how old it is",
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
        f"no record says how old it is: {GCM} (at least 5 days)",
    ),
    (
        "a KMS writes => unknown",
        "key-age",
        OF_KMS,
        UNKNOWN,
        "no record says how old it is: kms:vault (kms) (its KMS knows)",
    ),
    ("nothing is written with a key => no age", "key-age", ONLY_IDENTITY, PASS, "nothing is written with a key"),
    ("an old key without blockers => warn", "old-keys", old_key(), WARN, f"may be removed: {GCM_TWO}"),
    (
        "an old key with blockers, and nothing under it => pass, and the first blocker is told",
        "old-keys",
        old_key("etcd has not compacted", "more"),
        PASS,
        f"no readable object is under these, which can't go yet: {GCM_TWO}: etcd has not compacted",
    ),
    (
        "objects under the old key => pass: it is in use",
        "old-keys",
        old_key("4 objects are under it", objects=4),
        PASS,
        "every configured key is in use",
    ),
    (
        "identity could be removed => judged elsewhere",
        "old-keys",
        replace(GOOD, keys=(*GOOD.keys, KeyVerdict(PLAIN, 0, ()))),
        PASS,
        "every configured key is in use",
    ),
    # Surroundings.
    (
        "others may read the file => fail",
        "file-mode",
        file(mode=0o644),
        FAIL,
        "/e/enc.yaml holds keys, and its mode 0644 gives group or others access",
    ),
    (
        "the group may write it => fail",
        "file-mode",
        file(mode=0o620),
        FAIL,
        "/e/enc.yaml holds keys, and its mode 0620 gives group or others access",
    ),
    ("the file is not root's => warn", "file-owner", file(owner=7), WARN, "/e/enc.yaml belongs to uid 7, not to root"),
    (
        "the group may write to the directory => fail",
        "directory-mode",
        file(directory=0o770),
        FAIL,
        "group or others can write to the directory of the file: /e (0770)",
    ),
    (
        "everybody may write to the directory => fail, whatever its sticky bit",
        "directory-mode",
        file(directory=0o1777),
        FAIL,
        "group or others can write to the directory of the file: /e (1777)",
    ),
    (
        "http on the network => fail",
        "etcd-tls",
        endpoint("http://10.0.0.2:2379", Access.ASKS_PASSWORD, secure=False),
        FAIL,
        "no TLS on the network: http://10.0.0.2:2379",
    ),
    (
        "http on loopback => warn",
        "etcd-tls",
        endpoint("http://127.0.0.1:2379", Access.ASKS_PASSWORD, secure=False, local=True),
        WARN,
        "no TLS, though not beyond this machine: http://127.0.0.1:2379",
    ),
    (
        "one endpoint answers strangers => fail",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.ANSWERS),
        FAIL,
        "answers a client that has no certificate and no password: https://10.0.0.2:2379",
    ),
    (
        "one endpoint does not answer at all => unknown",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.UNCLEAR, "it is down"),
        UNKNOWN,
        "whether it answers a client without certificate and password can't be told: https://10.0.0.2:2379: it is down",
    ),
    (
        "a password is asked for => pass",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.ASKS_PASSWORD),
        PASS,
        f"{NOTHING}: https://10.0.0.1:2379 refuses, https://10.0.0.2:2379 asks for a password",
    ),
    (
        "a kube-apiserver says that it runs another file => fail",
        "converged",
        replace(GOOD, convergence=replace(NOBODY, because=LAGGING.because, replicas=(LAGGING,))),
        FAIL,
        "https://a runs sha256:1",
    ),
    (
        "no address is given => unknown",
        "converged",
        replace(GOOD, convergence=NOBODY),
        UNKNOWN,
        "no address of a kube-apiserver is given",
    ),
    (
        "past 60 % of the quota => warn",
        "space",
        replace(GOOD, room=Room(61, 100, None)),
        WARN,
        "the database is at 61% of its quota",
    ),
    ("past the stop mark => fail", "space", replace(GOOD, room=Room(81, 100, f"{FULL}: compact it")), FAIL, FULL),
    (
        "an alarm is raised => fail",
        "space",
        replace(GOOD, room=Room(1, 100, "etcd raised the alarm NOSPACE: compact it")),
        FAIL,
        "etcd raised the alarm NOSPACE",
    ),
    (
        "one endpoint does not tell its size => unknown",
        "space",
        replace(GOOD, silent=("https://10.0.0.3:2379",)),
        UNKNOWN,
        "the database is at 50% of its quota, but these did not tell theirs: https://10.0.0.3:2379",
    ),
    (
        "etcd does not tell its quota => pass, and that is said",
        "space",
        replace(GOOD, quota_told=False),
        PASS,
        f"the database is at 50% of its quota, {DEFAULT}, and no alarm is raised",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "state", "reason"), [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}") for row in ROWS]
)
def test_what_is_found(name: str, given: Facts, state: State, reason: str) -> None:
    check = line(given, name)
    assert (check.state, check.reason) == (state, reason)
    assert bool(check.remedy) == (state is not PASS)


def test_one_spoiled_point_spoils_no_other() -> None:
    checks = judge(file(mode=0o644))
    assert [check.id for check in checks if check.state is not PASS] == ["file-mode"]
    assert summarise(checks) == {"pass": len(CHECKS) - 1, "warn": 0, "fail": 1, "unknown": 0}


def test_many_names_are_cut_short() -> None:
    names = [f"r{number}.example.com" for number in range(8)]
    check = line(facts(entries((names, [IDENTITY]))), "primary-encrypts")
    assert check.reason.startswith(
        "r0.example.com, r1.example.com, r2.example.com, r3.example.com, r4.example.com and 3"
    )


def test_the_pages_name_every_check_and_no_other() -> None:
    docs = Path(__file__).parents[4] / "docs"
    [section] = re.findall(r"^## audit\n(.*?)^## ", (docs / "cli.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    table = section[section.index("| `id` |") :]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)[1:] == IDS
    hardening = (docs / "hardening.md").read_text("utf-8")
    assert [name for name in IDS if f"`{name}`" not in hardening] == []


def test_no_key_byte_is_in_a_line() -> None:
    everything = [judge(given) for given in (GOOD, WITH_OLD, OF_KMS, ONLY_IDENTITY, *(row[2] for row in ROWS))]
    assert "CanaryKey" not in repr(everything)


def test_a_name_that_governs_nothing_is_not_called_encrypted() -> None:
    check = line(facts(entries((["secrets", "deployments"], [keyed("aesgcm", "one")]))), "primary-encrypts")
    assert check.state is State.WARN
    assert check.reason == "deployments: governs nothing, so what was meant is written in plaintext"
