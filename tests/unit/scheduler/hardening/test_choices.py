"""Checks of the configuration: each row is a file, and the state and reason of one check."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
)
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.hardening.facts import State
from kube_rewrap.worker.verdict import KeyRef
from tests.unit.scheduler.hardening.cluster import (
    FAIL,
    GCM,
    GOOD,
    IDENTITY,
    ONLY_IDENTITY,
    PASS,
    SHARED,
    WARN,
    entries,
    facts,
    keyed,
    kms,
    line,
    proof,
    require,
    tally,
    under_kms,
)

GATE = "deprecated since Kubernetes 1.28; from 1.29 on kube-apiserver refuses the file unless its gate KMSv1 is on"


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
            "secrets: written with aescbc, which does not detect a changed value",
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
            f"vault: writes by KMS v1, {GATE}",
            id="KMS v1 writes => fail",
        ),
        pytest.param(
            "kms-v1",
            entries((["secrets"], [keyed("aesgcm", "one"), kms("v1")])),
            WARN,
            f"vault: may read by KMS v1, {GATE}",
            id="KMS v1 only reads => warn",
        ),
        pytest.param(
            "kms-v1",
            entries((["secrets"], [kms("v2")])),
            PASS,
            "no provider uses KMS v1",
            id="KMS v2 => pass",
        ),
        pytest.param(
            "kms-endpoint",
            entries((["secrets"], [kms("v2"), kms("v2", "lost", "unix://run/k.sock"), kms("v1", "dead", "unix://")])),
            FAIL,
            "dead: the endpoint names no socket, so kube-apiserver never connects",
            id="an endpoint that loads and never connects => fail",
        ),
        pytest.param(
            "kms-endpoint",
            entries((["secrets"], [kms("v2", "lost", "unix://run/k.sock")])),
            WARN,
            "lost: a URL's path does not include 'run': kube-apiserver dials '/k.sock'",
            id="an endpoint that connects elsewhere => warn",
        ),
        pytest.param(
            "kms-endpoint",
            entries((["secrets"], [kms("v2")])),
            PASS,
            "every KMS endpoint names a socket",
            id="an endpoint with its path => pass",
        ),
        pytest.param(
            "kms-unused",
            entries((["secrets"], [kms("v2")]), (["configmaps"], [keyed("aesgcm", "one"), kms("v1", "old")])),
            WARN,
            "no object is under these KMS providers, and nothing is written under them: old",
            id="a KMS provider that only reads, and no object under it => warn",
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
    require(facts(configuration), name, state, reason)


@pytest.mark.parametrize("fingerprint", ["0123456789abcdef", "0123456789abcdef-type0", "v1-cbc"])
def test_a_kms_provider_that_reads_objects_is_in_use_whatever_their_key_id(fingerprint: str) -> None:
    found = KeyRef("kms", "vault", fingerprint)
    given = facts(entries((["secrets"], [keyed("aesgcm", "one"), kms("v2")])))
    check = line(replace(given, proof=proof(tally({GCM: 1, found: 2}))), "kms-unused")
    assert (check.state, check.reason) == (PASS, "every KMS provider is in use")


def test_a_kms_provider_is_in_use_while_unreadable_objects_may_be_under_it() -> None:
    given = facts(entries((["secrets"], [keyed("aesgcm", "one"), kms("v2")])))
    assert line(replace(given, proof=under_kms().proof), "kms-unused").state is PASS


def test_advice_ranks_kms_v2_first_then_secretbox_then_aesgcm() -> None:
    written_by = {name: facts(entries((["secrets"], [keyed(name, "one")]))) for name in ("aescbc", "aesgcm")}
    remedies = [
        line(ONLY_IDENTITY, "primary-encrypts").remedy,
        line(written_by["aescbc"], "aescbc").remedy,
        line(replace(written_by["aesgcm"], settings=Settings()), "aesgcm-rotation").remedy,
    ]
    ranked = [re.findall(r"KMS v2|secretbox|aesgcm(?= with)", remedy) for remedy in remedies]
    assert ranked == [["KMS v2", "secretbox", "aesgcm"], ["KMS v2", "secretbox", "aesgcm"], ["KMS v2", "secretbox"]]


def test_nobody_is_told_to_change_the_version_of_a_kms_provider_in_place() -> None:
    """The prefix of every stored value would be another one."""
    remedy = line(facts(entries((["secrets"], [kms("v1")]))), "kms-v1").remedy
    assert "under a new name" in remedy
    assert "Never change `apiVersion` under the same name" in remedy


def test_aesgcm_without_automatic_rotation_warns() -> None:
    check = line(replace(GOOD, settings=Settings()), "aesgcm-rotation")
    assert (check.state, check.reason) == (
        WARN,
        "secrets, configmaps: written with aesgcm, whose keys need rotation; these settings rotate none automatically",
    )


def test_a_name_that_governs_nothing_is_not_called_encrypted() -> None:
    check = line(facts(entries((["secrets", "deployments"], [keyed("aesgcm", "one")]))), "primary-encrypts")
    assert check.state is State.WARN
    assert check.reason == "deployments: governs no resource, so the intended one is written in plaintext"
