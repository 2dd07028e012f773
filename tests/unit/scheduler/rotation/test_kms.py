"""A rotation to a KMS provider, between two, and back to a key: what the file holds at each step."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import KeyedProvider, KmsProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError, SettingsError
from kube_rewrap.scheduler.rotation.edits import edit
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.request import RotationRequest, plan_rotation
from kube_rewrap.scheduler.rotation.transition import is_way_back
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import KeyRef

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
STAMP = NOW.isoformat()
FRESH = SecretBytes(b"f" * 32)
CLOUD = KmsProvider("v2", "cloud", "unix:///run/kms/socket.sock", 3.0, None)
HASH = f"sha256:{'5' * 64}"
TO_KMS = RotationRequest(provider=ProviderType.KMS, stanza=CLOUD, stanza_hash=HASH, prune=True)


def aescbc(name: str) -> dict[str, object]:
    return {"aescbc": {"keys": [{"name": name, "secret": base64.b64encode(name.ljust(32).encode()).decode()}]}}


def kms(name: str, version: str = "v2") -> dict[str, object]:
    return {"kms": {"apiVersion": version, "name": name, "endpoint": f"unix:///run/{name}.sock"}}


def text(*entries: tuple[str, list[dict[str, object]]]) -> bytes:
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": [resource], "providers": providers} for resource, providers in entries],
        }
    ).encode()


TWO = text(("secrets", [aescbc("a"), {"identity": {}}]), ("configmaps", [{"identity": {}}]))


def planned(raw: bytes, request: RotationRequest) -> Rotation:
    return plan_rotation(raw, "enc.json", request, (), NOW, is_idle=lambda _: False)


def shown(raw: bytes) -> list[list[str]]:
    return [
        [
            ",".join(key.name for key in one.keys)
            if isinstance(one, KeyedProvider)
            else one.name
            if isinstance(one, KmsProvider)
            else "identity"
            for one in entry.providers
        ]
        for entry in load(raw, "enc.json").entries
    ]


def played(rotation: Rotation, raw: bytes, stanza: KmsProvider | None = CLOUD) -> list[list[list[str]]]:
    """The file after each edit."""
    found = []
    for step in (RotationStep.ADD, RotationStep.PROMOTE, RotationStep.PRUNE):
        raw, fingerprint = edit(replace(rotation, step=step), raw, "enc.json", FRESH, stanza)
        assert fingerprint == "" or rotation.provider != "kms"
        found.append(shown(raw))
    return found


def test_each_entry_gets_a_provider_of_its_own_which_is_promoted_and_the_old_ones_go() -> None:
    rotation = planned(TWO, TO_KMS)
    assert (rotation.provider, rotation.key_name, rotation.stanza) == ("kms", "cloud", HASH)
    assert [key.name for key in rotation.new_keys] == ["cloud", "cloud-2"]
    assert played(rotation, TWO) == [
        [["a", "cloud", "identity"], ["identity", "cloud-2"]],
        [["cloud", "a", "identity"], ["cloud-2", "identity"]],
        [["cloud"], ["cloud-2"]],
    ]


@pytest.mark.parametrize("name", ["cloud", "cloud-2"])
def test_a_name_that_an_earlier_provider_had_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"an earlier KMS provider was named {name}:"):
        plan_rotation(TWO, "enc.json", TO_KMS, (), NOW, is_idle=lambda _: False, kms_taken={name, "other"})
    rotation = plan_rotation(TWO, "enc.json", TO_KMS, {"cloud"}, NOW, is_idle=lambda _: False, kms_taken={"other"})
    assert rotation.key_name == "cloud"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_from_one_kms_provider_to_another(version: str) -> None:
    raw = text(("secrets", [kms("old", version), {"identity": {}}]))
    rotation = planned(raw, TO_KMS)
    assert rotation.retired == (KeyRef("kms", "old", version),)
    assert played(rotation, raw)[-1] == [["cloud", "identity"]]


def test_back_from_kms_to_a_key() -> None:
    raw = text(("secrets", [kms("old"), {"identity": {}}]))
    rotation = planned(raw, RotationRequest(provider=ProviderType.SECRETBOX, prune=True))
    assert played(rotation, raw, None)[-1] == [["key-20260203", "identity"]]


def test_an_unused_provider_is_withdrawn() -> None:
    rotation = planned(TWO, TO_KMS)
    added, _ = edit(rotation, TWO, "enc.json", FRESH, CLOUD)
    assert edit(replace(rotation, step=RotationStep.WITHDRAW), added, "enc.json", FRESH) == (TWO, "")
    before = GenerationRecord("1", (("secrets", (KeyRef("aescbc", "a", "a" * 16), KeyRef("kms", "cloud", "v2"))),))
    after = GenerationRecord("2", (("secrets", (KeyRef("aescbc", "a", "a" * 16),)),))
    assert is_way_back(replace(rotation, step=RotationStep.RETURN), before, after)


def test_a_name_that_the_file_has_is_refused() -> None:
    raw = text(("secrets", [aescbc("a")]), ("configmaps", [kms("cloud-2")]))
    with pytest.raises(SettingsError, match="the file has a KMS provider named cloud-2"):
        planned(raw, TO_KMS)


@pytest.mark.parametrize("stanza", [None, replace(CLOUD, name="other")])
def test_a_record_that_names_another_provider_edits_nothing(stanza: KmsProvider | None) -> None:
    with pytest.raises(ValueError, match="names another KMS provider"):
        edit(planned(TWO, TO_KMS), TWO, "enc.json", FRESH, stanza)


def test_the_operators_provider_is_read_from_its_file(tmp_path: Path) -> None:
    stanza = tmp_path / "stanza.yaml"
    stanza.write_text("kms:\n  apiVersion: v2\n  name: cloud\n  endpoint: unix:///run/kms/socket.sock\n")
    provider, found = ConfigurationFile("enc", "archive", kms_file=str(stanza)).stanza()
    assert provider == CLOUD
    assert found.startswith("sha256:")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("kms: {name: a, endpoint: 'unix:///a'}", "has no KMS v2 provider"),
        ("identity: {}", "has no KMS v2 provider"),
        ("kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///a'}", "must have no colon"),
        ("{", "stanza.yaml"),
        (TWO.decode(), "it is a whole EncryptionConfiguration, .* where one provider is expected"),
        ("- kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}", "it is a list, where one provider"),
        ("providers: [{identity: {}}]", "it is a list of providers, where one provider"),
        ("apiVersion: v2\nname: a\nendpoint: unix:///a\n", "it is the inner part of a provider"),
    ],
)
def test_what_is_no_kms_v2_provider_is_refused(tmp_path: Path, content: str, words: str) -> None:
    stanza = tmp_path / "stanza.yaml"
    stanza.write_text(content)
    with pytest.raises(ConfigError, match=words):
        ConfigurationFile("enc", "archive", kms_file=str(stanza)).stanza()


def test_without_a_file_it_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="--kms-file: is missing"):
        ConfigurationFile("enc", "archive").stanza()


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        (KeyRef("kms", "cloud", ""), KeyRef("kms", "cloud", "f" * 16), True),
        (KeyRef("kms", "cloud", ""), KeyRef("kms", "cloud-2", "f" * 16), False),
        (KeyRef("aesgcm", "a", "f" * 16), KeyRef("aesgcm", "renamed", "f" * 16), True),
        (KeyRef("aesgcm", "a", "f" * 16), KeyRef("kms", "a", "f" * 16), False),
        (KeyRef("aesgcm", "a", "f" * 16), KeyRef("aesgcm", "a", "e" * 16), False),
    ],
)
def test_what_a_key_covers(mine: KeyRef, other: KeyRef, *, expected: bool) -> None:
    assert mine.covers(other) is expected
