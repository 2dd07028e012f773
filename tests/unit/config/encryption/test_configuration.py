"""Every rule of the EncryptionConfiguration, one row each: the text that breaks it, the path and the message."""

from __future__ import annotations

import json
import traceback

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
    load,
    load_provider,
)
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError, DocumentError, EncryptionConfigError, Fault

HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
KEY16 = "AAECAwQFBgcICQoLDA0ODw=="
KEY32 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
UNIX = "unix:///run/kms.sock"


def entries(*items: str) -> str:
    """A file of flow-style entries."""
    return HEAD + "resources:\n" + "".join(f"- {item}\n" for item in items)


def one(provider: str) -> str:
    return entries(f"{{resources: [secrets], providers: [{provider}]}}")


def key(text: str) -> str:
    return one(f"{{aescbc: {{keys: [{text}]}}}}")


def kms(fields: str) -> str:
    return one(f"{{kms: {{{fields}}}}}")


def named(*lists: str) -> str:
    return entries(*(f"{{resources: [{names}], providers: [{{identity: {{}}}}]}}" for names in lists))


def loaded(text: str) -> EncryptionConfiguration:
    return load(text.encode(), "encryption.yaml")


def faults(text: str) -> list[Fault]:
    with pytest.raises(EncryptionConfigError) as caught:
        loaded(text)
    assert caught.value.file == "encryption.yaml"
    assert caught.value.__context__ is None
    return list(caught.value.faults)


def said(text: str) -> list[str]:
    return [f"{fault.path}: {fault.message}" for fault in faults(text)]


def single_kms(fields: str) -> KmsProvider:
    (provider,) = loaded(kms(fields)).entries[0].providers
    assert isinstance(provider, KmsProvider)
    return provider


NOT_A_BOOLEAN = (
    "it must be a string and is a boolean (without quotes, YAML reads yes, no, on, off, y and n as true or false)"
)
PROVIDER = "resources[0].providers[0]"
KEYS = f"{PROVIDER}.aescbc.keys"

REFUSED = {
    "wrong kind => only the kind is spoken of": (
        "apiVersion: v1\nkind: Secret\nmetadata: {}\ndata: {}\n",
        ["kind: the kind is not EncryptionConfiguration"],
    ),
    "no kind, no version": (
        "resources: []\n",
        ["kind: the kind is missing", "apiVersion: the version is missing"],
    ),
    "kind is a number => it is not also missing": (
        "apiVersion: v1\nkind: 1\n",
        ["kind: it must be a string and is an integer"],
    ),
    "kind is null": ("apiVersion: v1\nkind: null\n", ["kind: the kind is missing"]),
    "the document is a string": (
        "hello\n",
        [": it must be a mapping and is a string", "kind: the kind is missing", "apiVersion: the version is missing"],
    ),
    "the legacy kind in a version that never was": (
        "apiVersion: v2\nkind: EncryptionConfig\nresources: [{resources: [a], providers: [{identity: {}}]}]\n",
        ["apiVersion: EncryptionConfig, the legacy kind, exists in apiVersion v1 only"],
    ),
    "resources is a mapping": (HEAD + "resources: {}\n", ["resources: it must be a list and is a mapping"]),
    "an entry is a string": (HEAD + "resources: [secrets]\n", [
        "resources[0]: it must be a mapping and is a string",
        "resources[0].resources: at least one resource is required",
        "resources[0].providers: at least one provider is required",
    ]),
    "an entry is null": (HEAD + "resources: [~]\n", [
        "resources[0].resources: at least one resource is required",
        "resources[0].providers: at least one provider is required",
    ]),
    "inner resources is a string": (
        entries("{resources: secrets, providers: [{identity: {}}]}"),
        ["resources[0].resources: it must be a list and is a string"],
    ),
    "a resource is a boolean": (
        named("secrets, on"),
        [
            f"resources[0].resources[1]: {NOT_A_BOOLEAN}",
        ],
    ),
    "a provider is a word": (one("identity"), [f"{PROVIDER}: it must be a mapping and is a string"]),
    "a provider is null": (one("~"), [f"{PROVIDER}: the element holds no provider"]),
    "identity: null is no provider": (one("{identity: }"), [f"{PROVIDER}: the element holds no provider"]),
    "aescbc: null is no provider": (one("{aescbc: ~}"), [f"{PROVIDER}: the element holds no provider"]),
    "identity takes no fields": (one("{identity: {a: 1}}"), [f"{PROVIDER}.identity.a: unknown field"]),
    "identity is a string": (one("{identity: ''}"), [f"{PROVIDER}.identity: it must be a mapping and is a string"]),
    "aescbc is a list": (one("{aescbc: []}"), [f"{PROVIDER}.aescbc: it must be a mapping and is a list"]),
    "keys is null": (one("{aescbc: {keys: ~}}"), [f"{KEYS}: at least one key is required"]),
    "keys is a mapping": (one("{aescbc: {keys: {}}}"), [f"{KEYS}: it must be a list and is a mapping"]),
    "a misspelt provider is not also a missing one": (one("{AESCBC: {}}"), [f"{PROVIDER}.AESCBC: unknown field"]),
    "a misspelt provider beside two real ones hides nothing": (
        one("{AESCBC: {}, identity: {}, kms: {name: a, endpoint: 'unix:///s'}}"),
        [f"{PROVIDER}.AESCBC: unknown field", f"{PROVIDER}: more than one provider in one list element"],
    ),
    "three providers in one element": (
        one(f"{{identity: {{}}, secretbox: {{keys: [{{name: a, secret: {KEY16}}}]}}, kms: {{}}}}"),
        [
            f"{PROVIDER}: more than one provider in one list element",
            f"{PROVIDER}.kms.name: the name is mandatory",
            f"{PROVIDER}.kms.endpoint: the endpoint is mandatory",
            f"{PROVIDER}.secretbox.keys[0].secret: the secret decodes to 16 bytes, 32 are needed",
        ],
    ),
    "a key is null": (
        key("~"), [f"{KEYS}[0].name: the name is mandatory", f"{KEYS}[0].secret: the secret is mandatory"]
    ),
    "a key is a string": (key(KEY32), [f"{KEYS}[0]: it must be a mapping and is a string"]),
    "a secret is a number": (
        key("{name: a, secret: 1234}"), [f"{KEYS}[0].secret: it must be a string and is an integer"]
    ),
    "a secret is only line breaks": (
        key('{name: a, secret: "\\n"}'), [f"{KEYS}[0].secret: the secret decodes to 0 bytes, 16 or 24 or 32 are needed"]
    ),
    "a name is a list": (
        key(f"{{name: [a], secret: {KEY32}}}"), [f"{KEYS}[0].name: it must be a string and is a list"]
    ),
    "a duplicate name in a key": (
        key(f"{{name: a, name: b, secret: {KEY32}}}"), [f"{KEYS}[0].name: the field is set twice"]
    ),
    "a merged field that is set again is a duplicate": (
        HEAD + f"resources:\n- resources: [a]\n  providers:\n  - aescbc: {{keys: [&k {{name: a, secret: {KEY32}}}]}}\n"
        "  - aescbc: {keys: [{<<: *k, name: b}]}\n",
        ["resources[0].providers[1].aescbc.keys[0].name: the field is set twice"],
    ),
    "kms version as a number": (
        kms(f"apiVersion: 2, name: a, endpoint: {UNIX}"),
        [f"{PROVIDER}.kms.apiVersion: it must be a string and is an integer"],
    ),
    "kms endpoint is no URL": (
        kms("name: a, endpoint: 'unix://%zz'"), [f"{PROVIDER}.kms.endpoint: the endpoint is not a URL"]
    ),
    "kms endpoint is a path": (
        kms("name: a, endpoint: /run/kms.sock"), [f"{PROVIDER}.kms.endpoint: only unix sockets are supported"]
    ),
    "kms v1 cachesize zero": (
        kms(f"name: a, endpoint: '{UNIX}', cachesize: 0"), [f"{PROVIDER}.kms.cachesize: cachesize must not be zero"]
    ),
    "kms v2 cachesize zero": (
        kms(f"apiVersion: v2, name: a, endpoint: '{UNIX}', cachesize: 0"),
        [f"{PROVIDER}.kms.cachesize: KMS v2 has no cachesize"],
    ),
    "kms cachesize past 32 bits": (
        kms(f"name: a, endpoint: '{UNIX}', cachesize: 2147483648"),
        [f"{PROVIDER}.kms.cachesize: the number does not fit into 32 bits"],
    ),
    "kms cachesize with a fraction": (
        kms(f"name: a, endpoint: '{UNIX}', cachesize: 1.5"),
        [f"{PROVIDER}.kms.cachesize: it must be a whole number and is a floating-point number"],
    ),
    "kms cachesize in quotes": (
        kms(f"name: a, endpoint: '{UNIX}', cachesize: '10'"),
        [f"{PROVIDER}.kms.cachesize: it must be a whole number and is a string"],
    ),
    "kms timeout without a unit": (
        kms(f"name: a, endpoint: '{UNIX}', timeout: '3'"), [f"{PROVIDER}.kms.timeout: it is not a duration"]
    ),
    "kms timeout as a number": (
        kms(f"name: a, endpoint: '{UNIX}', timeout: 3"),
        [f"{PROVIDER}.kms.timeout: it must be a duration and is an integer"],
    ),
    "kms timeout zero": (
        kms(f"name: a, endpoint: '{UNIX}', timeout: '0'"), [f"{PROVIDER}.kms.timeout: the timeout must be positive"]
    ),
    "kms cacheSize is cachesize": (
        kms(f"name: a, endpoint: '{UNIX}', cacheSize: 1"), [f"{PROVIDER}.kms.cacheSize: unknown field"]
    ),
    "kms is a string": (one("{kms: x}"), [f"{PROVIDER}.kms: it must be a mapping and is a string"]),
    "*.extensions": (named("'*.extensions'"), ["resources[0].resources[0]: the group extensions has been removed"]),
    "*.events.k8s.io": (
        named("'*.events.k8s.io'"), ["resources[0].resources[0]: events are stored under the core group"]
    ),
    "the same resource twice, once with the dot of the empty group": (
        named("secrets, 'secrets.'"), ["resources[0].resources: the same resource is in the list twice"]
    ),
    "a group wildcard beside *.*": (
        named("'*.apps', '*.*'"),
        ["resources[0].resources: a wildcard and a resource that it covers are in one list"],
    ),
    "twice and overlapping": (
        named("a, a, '*.'"),
        [
            "resources[0].resources: the same resource is in the list twice",
            "resources[0].resources: a wildcard and a resource that it covers are in one list",
        ],
    ),
    "masked by a group wildcard": (
        named("'*.apps'", "secrets, deployments.apps"),
        ["resources[1].resources[1]: masked by the wildcard at resources[0].resources[0], which comes earlier"],
    ),
    "masked by *.*": (
        named("secrets", "'*.*'", "'*.apps', secrets"),
        [
            "resources[2].resources[0]: masked by the wildcard at resources[1].resources[0], which comes earlier",
            "resources[2].resources[1]: masked by the wildcard at resources[1].resources[0], which comes earlier",
        ],
    ),
    "a wildcard in two entries masks itself": (
        named("'*.'", "'*.'"),
        ["resources[1].resources[0]: masked by the wildcard at resources[0].resources[0], which comes earlier"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_refuses_with_path_and_reason(text: str, expected: list[str]) -> None:
    assert said(text) == expected


ACCEPTED = {
    "two KMS v1 providers of one name, without reload": entries(
        f"{{resources: [a], providers: [{{kms: {{name: a, endpoint: '{UNIX}'}}}},"
        f" {{kms: {{name: a, endpoint: '{UNIX}'}}}}]}}"
    ),
    "a KMS v1 provider after a v2 one of its name": entries(
        f"{{resources: [a], providers: [{{kms: {{apiVersion: v2, name: a, endpoint: '{UNIX}'}}}},"
        f" {{kms: {{name: a, endpoint: '{UNIX}'}}}}]}}"
    ),
    "a colon in the name of a KMS v1 provider": kms(f"name: 'a:b', endpoint: '{UNIX}'"),
    "a resource named null": named("~"),
    "a wildcard of another group in the same list": named("secrets, '*.apps'"),
    "the specific resource first, the wildcard later": named("secrets", "deployments.apps", "'*.apps'", "'*.*'"),
    "a null provider field beside a real one": one("{identity: {}, aescbc: ~}"),
    "the empty group in front of v1, which Go splits off": "apiVersion: /v1\nkind: EncryptionConfig\n"
    "resources: [{resources: [a], providers: [{identity: {}}]}]\n",
    "unused bits in the last base64 digit": key("{name: a, secret: AAECAwQFBgcICQoLDA0ODx==}"),
    "a date as a name, which goyaml keeps a string": key(f"{{name: 2024-01-01T00:00:00Z, secret: {KEY32}}}"),
    "a secret with an explicit string tag": key(f"{{name: !!str 1, secret: {KEY32}}}"),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(text: str) -> None:
    assert loaded(text).entries


def test_a_kms_v2_provider_may_not_take_the_name_of_an_earlier_v1_one() -> None:
    text = entries(
        f"{{resources: [a], providers: [{{kms: {{name: a, endpoint: '{UNIX}'}}}}]}}",
        f"{{resources: [b], providers: [{{kms: {{apiVersion: v2, name: a, endpoint: '{UNIX}'}}}}]}}",
    )
    assert said(text) == ["resources[1].providers[0].kms.name: an earlier KMS provider has this name"]


def test_all_faults_of_a_file_come_at_once_in_its_order() -> None:
    text = (
        HEAD + "extra: 1\nresources:\n- resources: ['*', Secrets.a]\n  providers:\n  - aesgcm:\n      keys:\n"
        "      - name: 1\n        secret: c2hvcnQ=\n        color: red\n  - kms: {apiVersion: v2}\n- resources: []\n"
    )
    assert [(fault.path, fault.line) for fault in faults(text)] == [
        ("extra", 3),
        ("resources[0].resources[0]", 5),
        ("resources[0].resources[1]", 5),
        ("resources[0].providers[0].aesgcm.keys[0].name", 9),
        ("resources[0].providers[0].aesgcm.keys[0].secret", 10),
        ("resources[0].providers[0].aesgcm.keys[0].color", 11),
        ("resources[0].providers[1].kms.name", 12),
        ("resources[0].providers[1].kms.endpoint", 12),
        ("resources[1].resources", 13),
        ("resources[1].providers", 13),
    ]


def test_remedies_are_commands_and_text_to_write() -> None:
    (fault,) = faults(key(f"{{name: yes, secret: {KEY32}}}"))
    assert fault.remedy == 'put quotes around the value, as in name: "1"'
    (fault,) = faults(one("{secretbox: {keys: []}}"))
    assert fault.remedy == "generate one with: rewrap keygen secretbox"
    (fault,) = faults(one("{AESCBC: {}}"))
    assert fault.remedy == "write aescbc: field names are case-sensitive"
    (fault,) = faults(one("{identity: {a: 1}}"))
    assert fault.remedy == "remove it; no field is known here"


CANARY = "Q2FuYXJ5IGtleSBtYXRlcmlhbCE="

LEAKS = {
    "key material as a field name": key(f"{{name: a, {CANARY}: }}"),
    "key material as a top-level field name": HEAD + f"{CANARY}: 1\n",
    "key material as a resource": named(CANARY),
    "key material as a kind": f"apiVersion: v1\nkind: {CANARY}\n",
    "key material as a version": f"apiVersion: {CANARY}\nkind: EncryptionConfiguration\n",
    "key material as an endpoint": kms(f"name: '{CANARY}:', endpoint: '{CANARY}', timeout: '{CANARY}'"),
    "key material as a KMS version": kms(f"apiVersion: '{CANARY}', name: a, endpoint: '{CANARY}'"),
    "key material of the wrong length": key(f"{{name: a, secret: {CANARY}}}"),
    "key material that is no base64": key(f"{{name: a, secret: '{CANARY}@'}}"),
    "key material in two providers of an element": one(
        f"{{aescbc: {{keys: [{{name: a, secret: {CANARY}}}]}}, identity: {{}}}}"
    ),
    "key material where a mapping belongs": one(f"{{aescbc: {CANARY}}}"),
    "key material in a duplicate": key(f"{{name: a, secret: {CANARY}, secret: {CANARY}}}"),
}


@pytest.mark.parametrize("text", LEAKS.values(), ids=LEAKS)
def test_a_refusal_shows_no_key_material(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.faults)
    assert CANARY.rstrip("=") not in shown


def test_a_field_name_that_may_be_a_key_is_not_shown() -> None:
    assert said(key(f"{{name: a, {CANARY}: }}")) == [
        f"{KEYS}[0].<name not shown>: unknown field, perhaps a value without its name",
        f"{KEYS}[0].secret: the secret is mandatory",
    ]


def test_the_repr_of_a_configuration_shows_no_key() -> None:
    shown = repr(loaded(key(f"{{name: key1, secret: {KEY32}}}")))
    assert "SecretBytes(<masked>)" in shown
    assert "key1" in shown
    assert KEY32 not in shown
    assert repr(bytes(range(32)))[2:-1] not in shown


def test_keys_are_decoded() -> None:
    (provider,) = loaded(key(f"{{name: 'a:b', secret: {KEY32}}}")).entries[0].providers
    assert provider == KeyedProvider(ProviderType.AESCBC, (Key("a:b", SecretBytes(bytes(range(32)))),))
    assert provider.type == "aescbc"


def test_every_provider_has_its_type() -> None:
    (provider,) = loaded(one("{identity: {}}")).entries[0].providers
    assert provider == IdentityProvider()
    assert provider.type is ProviderType.IDENTITY
    assert single_kms(f"name: a, endpoint: '{UNIX}'").type is ProviderType.KMS


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (f"name: a, endpoint: '{UNIX}'", KmsProvider("v1", "a", UNIX, 3.0, 1000)),
        (f"apiVersion: v1, name: a, endpoint: '{UNIX}', cachesize: -1", KmsProvider("v1", "a", UNIX, 3.0, -1)),
        (f"apiVersion: v2, name: a, endpoint: '{UNIX}'", KmsProvider("v2", "a", UNIX, 3.0, None)),
        (f"apiVersion: '', name: a, endpoint: '{UNIX}', timeout: ~", KmsProvider("v1", "a", UNIX, 3.0, 1000)),
        (f"name: a, endpoint: '{UNIX}', timeout: 1m0.5s, cachesize: 1e3", KmsProvider("v1", "a", UNIX, 60.5, 1000)),
        ("name: a, endpoint: 'UNIX:///@abstract'", KmsProvider("v1", "a", "UNIX:///@abstract", 3.0, 1000)),
    ],
)
def test_kms_defaults(fields: str, expected: KmsProvider) -> None:
    assert single_kms(fields) == expected


def test_json_is_decoded_by_json_rules() -> None:
    def document(cachesize: str) -> bytes:
        body = {"apiVersion": "v1", "kind": "EncryptionConfig", "resources": [
            {"resources": ["secrets"], "providers": [{"kms": {"name": "a", "endpoint": UNIX, "cachesize": 7777}}]}
        ]}  # fmt: skip
        return json.dumps(body).replace("7777", cachesize).encode()

    (provider,) = load(document("5"), "f").entries[0].providers
    assert isinstance(provider, KmsProvider)
    assert provider.cache_size == 5
    for number in ("1e3", "5.0", '"5"'):
        with pytest.raises(EncryptionConfigError) as caught:
            load(document(number), "f")
        assert [fault.path for fault in caught.value.faults] == [f"{PROVIDER}.kms.cachesize"]
        assert [fault.line for fault in caught.value.faults] == [None]


def test_an_unreadable_text_is_a_document_error() -> None:
    with pytest.raises(DocumentError) as caught:
        load(b"", "encryption.yaml")
    assert str(caught.value).startswith("encryption.yaml: the file is empty; ")


def names_of(providers: tuple[Provider, ...] | None) -> list[str] | None:
    if providers is None:
        return None
    return [key.name for provider in providers if isinstance(provider, KeyedProvider) for key in provider.keys]


def governed_by(**lists: str) -> EncryptionConfiguration:
    """Entries whose single key is called as the argument."""
    return loaded(
        entries(
            *(
                f"{{resources: [{names}], providers: [{{aescbc: {{keys: [{{name: {name}, secret: {KEY32}}}]}}}}]}}"
                for name, names in lists.items()
            )
        )
    )


PRECEDENCE = governed_by(
    exact="secrets, deployments.apps", again="configmaps, secrets", group="'*.apps'", core="'*.'", rest="'*.*'"
)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("secrets", ["exact", "again"]),
        ("configmaps", ["again"]),
        ("deployments.apps", ["exact"]),
        ("replicasets.apps", ["group"]),
        ("pods", ["core"]),
        ("widgets.example.com", ["rest"]),
        ("secrets.example.com", ["rest"]),
    ],
)
def test_exact_name_then_group_then_everything(resource: str, expected: list[str]) -> None:
    assert names_of(PRECEDENCE.providers_for(GroupResource.parse(resource))) == expected


def test_what_no_entry_names_is_governed_by_none() -> None:
    configuration = governed_by(a="secrets, '*.apps'")
    assert configuration.providers_for(GroupResource("configmaps")) is None
    assert configuration.providers_for(GroupResource("secrets", "apps")) is not None
    assert configuration.providers_for(GroupResource("secrets", "example.com")) is None


def test_a_name_with_the_dot_of_the_empty_group_governs_the_core_resource() -> None:
    assert names_of(governed_by(a="'secrets.'").providers_for(GroupResource("secrets"))) == ["a"]


def test_resource_names_are_in_file_order_without_repeats() -> None:
    assert PRECEDENCE.resource_names() == ("secrets", "deployments.apps", "configmaps", "*.apps", "*.", "*.*")


def test_one_provider_alone_is_read_by_the_same_rules() -> None:
    stanza = b"kms:\n  apiVersion: v2\n  name: cloud\n  endpoint: unix:///run/kms.sock\n"
    expected = KmsProvider("v2", "cloud", "unix:///run/kms.sock", 3.0, None)
    assert load_provider(stanza, "stanza.yaml") == expected
    assert load_provider(
        b'{"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": "unix:///run/kms.sock"}}', "f"
    ) == (expected)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kms: {apiVersion: v2, endpoint: 'unix:///run/kms.sock'}", "kms.name"),
        ("kms: {apiVersion: v2, name: a, endpoint: 'https://x', cachesize: 3}", "kms.endpoint"),
        ("kms: {name: 3}", "kms.name"),
        ("{}", ""),
        ("- kms: {}", ""),
        ("kms: {}\nidentity: {}", ""),
    ],
)
def test_one_provider_alone_is_refused_with_path(text: str, path: str) -> None:
    with pytest.raises(EncryptionConfigError) as caught:
        load_provider(text.encode(), "stanza.yaml")
    assert path in [fault.path for fault in caught.value.faults]
