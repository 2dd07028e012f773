"""Checks of the stored objects: each row differs from a good cluster in what a scan finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.scheduler.hardening.facts import DAY, HardeningFacts, State
from kube_rewrap.worker.verdict import KeyRef, Reason
from tests.unit.scheduler.hardening.cluster import (
    FAIL,
    GCM,
    GCM_TWO,
    GOOD,
    NEVER,
    NOW,
    PASS,
    PASSED_OVER,
    PLAIN,
    UNKNOWN,
    WARN,
    require,
    scanned,
    tally,
    under_kms,
)

VAULT = KeyRef("kms", "vault", "kms")
KEK = KeyRef("kms", "vault", "0123456789abcdef")

ROWS = [
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
        "paths of unknown resources => whether there is plaintext is unknown",
        "plaintext",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "none of 1 objects is in plaintext, but paths of unknown resources were not scanned: /x/",
    ),
    (
        "what is under KMS was not opened => whether it is readable is unknown, and why",
        "readable",
        replace(scanned(tally({GCM: 1})), missing="the plugin is down"),
        UNKNOWN,
        "the plugin is down",
    ),
    (
        "what is under KMS was not opened, and objects are under an older key => warn of these",
        "current",
        replace(scanned(tally({GCM: 1, KEK: 2}, configured=(VAULT, GCM))), missing="the plugin is down"),
        WARN,
        "1 objects are under older keys: secrets 1",
    ),
    (
        "what is under KMS was not opened, and its KEK is not known => current is unknown",
        "current",
        replace(scanned(tally({KEK: 2}, configured=(VAULT, GCM))), missing="the plugin is down"),
        UNKNOWN,
        "the plugin is down",
    ),
    (
        "what is under KMS was not opened, and nothing was proven => warn",
        "proof-age",
        replace(scanned(tally({KEK: 2}, configured=(VAULT, GCM))), proof_revision=0, missing="the plugin is down"),
        WARN,
        f"{NEVER}; this scan did not open what is under KMS",
    ),
    (
        "the same, and an object is under an older key => fail",
        "proof-age",
        replace(scanned(tally({GCM: 2}, configured=(VAULT, GCM))), proof_revision=0, missing="the plugin is down"),
        FAIL,
        f"{NEVER}; this scan did not open what is under KMS",
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
        "paths of unknown resources => whether all can be read is unknown",
        "readable",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "1 objects can be read, but paths of unknown resources were not scanned: /x/",
    ),
    (
        "objects under an older key => warn; plaintext is not counted again",
        "current",
        scanned(tally({GCM: 1, GCM_TWO: 4, PLAIN: 2}, configured=(GCM, GCM_TWO, PLAIN))),
        WARN,
        "4 objects are under older keys: secrets 4",
    ),
    (
        "paths of unknown resources => whether all is current is unknown",
        "current",
        scanned(tally({GCM: 1}), unknown=PASSED_OVER),
        UNKNOWN,
        "nothing is under an older key, but paths of unknown resources were not scanned: /x/",
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
        "objects under KMS that the plugin refuses => encrypted",
        "plaintext",
        under_kms(),
        PASS,
        "none of 3 objects is in plaintext",
    ),
    (
        "objects under KMS that the plugin refuses => unreadable",
        "readable",
        under_kms(Reason.NO_SUCH_KEY),
        FAIL,
        (
            "3 objects can't be read, 0 more are in quarantine: /registry/secrets/n/o0 (no_key_of_that_name), "
            "/registry/secrets/n/k1 (kms_refused), /registry/secrets/n/k2 (kms_refused)"
        ),
    ),
    (
        "objects under KMS that the plugin refuses, and no campaign on record => fail",
        "proof-age",
        replace(under_kms(), proof_revision=0, proven_at=None),
        FAIL,
        f"{NEVER}; this scan did not find everything under its primary key",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "state", "reason"), [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}") for row in ROWS]
)
def test_what_is_found(name: str, given: HardeningFacts, state: State, reason: str) -> None:
    require(given, name, state, reason)
