"""Checks of the configuration: each row is a file, and the state and reason of one check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
)
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.hardening.facts import State
from tests.unit.scheduler.hardening.cluster import (
    FAIL,
    GOOD,
    IDENTITY,
    PASS,
    SHARED,
    WARN,
    entries,
    facts,
    keyed,
    kms,
    line,
    require,
)


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
            "no provider uses KMS v1",
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
    require(facts(configuration), name, state, reason)


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
