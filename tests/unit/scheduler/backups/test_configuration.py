"""The smallest configuration that reads a backup: what writes now stays first, what the backup needs is behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from kube_rewrap.config.encryption.configuration import IdentityProvider, Key, KeyedProvider, KmsProvider
from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.scheduler.backups.configuration import doubtful_names, smallest_configuration
from kube_rewrap.worker.verdict import KeyRef
from tests.integration.apiserver import IDENTITY, configuration
from tests.integration.apiserver import Key as SomeKey

ONE, TWO, THREE, UNUSED = (SomeKey.new("aesgcm", name) for name in ("one", "two", "three", "unused"))
CBC = SomeKey.new("aescbc", "one")
PLAIN = KeyRef("identity", "", "-")


class Kms:
    """A KMS provider of an old file."""

    def block(self) -> Mapping[str, object]:
        fields = {"apiVersion": "v1", "name": "old", "endpoint": "unix:///old.sock", "timeout": "1.5s", "cachesize": 7}
        return {"kms": fields}


class KmsV2:
    """A KMS v2 provider."""

    def __init__(self, socket: str, name: str = "cloud") -> None:
        self.fields = {"apiVersion": "v2", "name": name, "endpoint": f"unix:///{socket}.sock"}

    def block(self) -> Mapping[str, object]:
        return {"kms": self.fields}


KEK = KeyRef("kms", "cloud", "00112233aabbccdd")


def generation(*entries: tuple[Sequence[str], Sequence[object]]) -> Generation:
    return load_generation(configuration(*entries).encode(), "enc.yaml")  # type: ignore[arg-type]


def ref(key: SomeKey) -> KeyRef:
    return KeyRef(key.provider, key.name, key.fingerprint)


def chains(content: bytes) -> list[tuple[tuple[str, ...], list[str]]]:
    """Each entry's resources, and its providers and keys in their order."""
    found = load_generation(content, "out").configuration
    shown = []
    for entry in found.entries:
        names: list[str] = []
        for provider in entry.providers:
            match provider:
                case KeyedProvider():
                    names += [f"{provider.type}:{key.name}" for key in provider.keys]
                case KmsProvider():
                    names.append(f"kms:{provider.name}")
                case IdentityProvider():
                    names.append("identity")
        shown.append((entry.resources, names))
    return shown


PRESENT = generation((["secrets", "configmaps"], [ONE, TWO, UNUSED, IDENTITY]))
ARCHIVED = generation((["secrets"], [THREE, CBC, UNUSED]), (["pods"], [Kms(), IDENTITY]))
BOTH = ("secrets", "configmaps")

ROWS = [
    ("nothing is needed", {}, [(BOTH, ["aesgcm:one"])]),
    ("the present key alone", {"secrets": [ref(ONE)]}, [(BOTH, ["aesgcm:one"])]),
    ("a present key that only reads", {"secrets": [ref(TWO)]}, [(BOTH, ["aesgcm:one", "aesgcm:two"])]),
    (
        "archived keys come behind",
        {"configmaps": [ref(CBC), ref(THREE), ref(TWO)]},
        [(BOTH, ["aesgcm:one", "aesgcm:two", "aesgcm:three", "aescbc:one"])],
    ),
    ("plaintext", {"secrets": [PLAIN, ref(CBC)]}, [(BOTH, ["aesgcm:one", "aescbc:one", "identity"])]),
    (
        "a resource that is not encrypted any more",
        {"pods": [KeyRef("kms", "old", "v1"), PLAIN]},
        [(BOTH, ["aesgcm:one"]), (("pods",), ["identity", "kms:old"])],
    ),
    ("an ungoverned resource in plaintext", {"pods": [PLAIN]}, [(BOTH, ["aesgcm:one"])]),
]


@pytest.mark.parametrize(("needed", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_entries(needed: Mapping[str, Sequence[KeyRef]], expected: list[tuple[tuple[str, ...], list[str]]]) -> None:
    assert chains(smallest_configuration(needed, [PRESENT, ARCHIVED])) == expected


def test_wildcards_stay() -> None:
    present = generation((["*.apps"], [ONE]), (["*.*"], [TWO]))
    found = chains(
        smallest_configuration({"deployments.apps": [ref(TWO)], "secrets": [ref(THREE)]}, [present, ARCHIVED])
    )
    assert found == [(("*.apps",), ["aesgcm:one", "aesgcm:two"]), (("*.*",), ["aesgcm:two", "aesgcm:three"])]


def test_an_identity_that_writes_stays_first() -> None:
    present = generation((["secrets"], [IDENTITY, ONE]))
    found = chains(smallest_configuration({"secrets": [ref(ONE), PLAIN]}, [present]))
    assert found == [(("secrets",), ["identity", "aesgcm:one"])]


def test_a_kms_provider_keeps_its_fields() -> None:
    needed = {"pods": [KeyRef("kms", "old", "v1")]}
    found = load_generation(smallest_configuration(needed, [PRESENT, ARCHIVED]), "out").configuration
    assert found.entries[1].providers[1] == KmsProvider("v1", "old", "unix:///old.sock", 1.5, 7)


def test_a_kms_provider_that_two_entries_need_is_named_once_behind_both() -> None:
    present = generation((["secrets"], [ONE]), (["configmaps"], [TWO, IDENTITY]))
    archived = generation((["secrets", "configmaps"], [KmsV2("a"), THREE]))
    needed = {"secrets": [KEK], "configmaps": [KEK, ref(THREE)], "pods": [PLAIN]}
    content = smallest_configuration(needed, [present, archived])
    assert chains(content) == [
        (("secrets",), ["aesgcm:one"]),
        (("configmaps",), ["aesgcm:two", "aesgcm:three"]),
        (("secrets", "configmaps"), ["kms:cloud"]),
    ]
    made = load_generation(content, "out").configuration
    governing = made.providers_for(GroupResource("configmaps"))
    assert governing is not None
    assert [one.type.value for one in governing] == ["aesgcm", "kms"]


def test_resources_that_are_plain_now_share_a_kms_provider() -> None:
    present, archived = generation((["secrets"], [ONE])), generation((["pods", "events"], [KmsV2("a")]))
    assert chains(smallest_configuration({"pods": [KEK], "events": [KEK, PLAIN]}, [present, archived])) == [
        (("secrets",), ["aesgcm:one"]),
        (("pods",), ["identity"]),
        (("events",), ["identity"]),
        (("pods", "events"), ["kms:cloud"]),
    ]


@pytest.mark.parametrize("present", [[KmsV2("a")], [ONE, KmsV2("a")]])
def test_a_kms_provider_whose_plugin_moved_is_taken_from_the_newest_file(present: Sequence[object]) -> None:
    files = [generation((["secrets"], present)), generation((["secrets"], [KmsV2("b"), KmsV2("c", "other")]))]
    [entry] = load_generation(smallest_configuration({"secrets": [KEK]}, files), "out").configuration.entries
    assert [one.endpoint for one in entry.providers if isinstance(one, KmsProvider)] == ["unix:///a.sock"]


def test_key_bytes_and_odd_names_survive() -> None:
    odd = SomeKey.new("secretbox", 'a "b": é\U0001f511 #')
    [entry] = load_generation(
        smallest_configuration({}, [generation((["secrets"], [odd]))]), "out"
    ).configuration.entries
    [provider] = entry.providers
    assert isinstance(provider, KeyedProvider)
    [key] = provider.keys
    assert isinstance(key, Key)
    assert (key.name, key.secret.reveal()) == (odd.name, odd.material)


def test_two_aescbc_keys_of_one_name_are_told() -> None:
    other, named = SomeKey.new("aescbc", "one"), SomeKey.new("aescbc", "two")
    assert doubtful_names(generation((["secrets"], [CBC, ONE, other, named]), (["pods"], [named])).configuration) == [
        "one"
    ]
    assert doubtful_names(generation((["secrets"], [CBC, ONE, named]), (["pods"], [other])).configuration) == []
    longer = SomeKey.new("aescbc", "one:two")
    assert doubtful_names(generation((["secrets"], [longer, named, CBC])).configuration) == ["one"]
    assert doubtful_names(generation((["secrets"], [longer, named])).configuration) == []
