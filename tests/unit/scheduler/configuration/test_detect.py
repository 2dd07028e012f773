"""What changed between two generations, as rows; and what holds for any two."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.scheduler.configuration.detect import Change, ChangeKind, detect, detect_in_store, why_refused
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason

pytestmark = pytest.mark.timeout(60)

Chains = Mapping[str, Sequence[KeyRef]]

K1 = KeyRef("aescbc", "k1", "1" * 16)
K1B = KeyRef("aescbc", "k1", "b" * 16)
K1C = KeyRef("aescbc", "k1", "c" * 16)
K2 = KeyRef("aescbc", "k2", "2" * 16)
K9 = KeyRef("aescbc", "k9", "1" * 16)
BOX = KeyRef("secretbox", "k1", "3" * 16)
KMS = KeyRef("kms", "vault", "kms")
V1 = KeyRef("kms", "vault", "v1")
V2 = KeyRef("kms", "vault", "v2")
KEK_A = KeyRef("kms", "vault", "a" * 16)
KEK_B = KeyRef("kms", "vault", "b" * 16)
OTHER = KeyRef("kms", "cloud", "v2")
OTHER_KEK = KeyRef("kms", "cloud", "a" * 16)
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)


def record(chains: Chains, name: str = "") -> GenerationRecord:
    return GenerationRecord(name or repr(chains), tuple((resource, tuple(keys)) for resource, keys in chains.items()))


def kinds(before: Chains | None, after: Chains) -> list[tuple[str, str, bool]]:
    changes = detect(record(before) if before is not None else None, record(after))
    return [(change.resource, change.kind.value, change.danger) for change in changes]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([K1, PLAIN], [K1, PLAIN], [], id="nothing"),
        pytest.param([K1, PLAIN], [BOX, K1, PLAIN], [("primary_provider_changed", False)], id="a new provider first"),
        pytest.param([PLAIN], [K1, PLAIN], [("primary_provider_changed", False)], id="from plaintext to a key"),
        pytest.param([K1, PLAIN], [PLAIN, K1], [("primary_provider_changed", False)], id="back to plaintext"),
        pytest.param([K1, PLAIN], [KMS, K1, PLAIN], [("primary_provider_changed", False)], id="from a key to KMS"),
        pytest.param([K1, PLAIN], [K2, K1, PLAIN], [("primary_key_changed", False)], id="a new key first"),
        pytest.param([K1, K2], [K2, K1], [("primary_key_changed", False)], id="a read key was promoted"),
        pytest.param([K1, K1B], [K1B, K1], [("primary_key_changed", False)], id="and it has the primary's name"),
        pytest.param(
            [K1, PLAIN],
            [K9, PLAIN],
            [("primary_key_changed", False), ("read_key_removed", True)],
            id="the primary was renamed => what carries the old name can't be read",
        ),
        pytest.param(
            [K1], [K2], [("primary_key_changed", False), ("read_key_removed", True)], id="replaced instead of preceded"
        ),
        pytest.param(
            [K1, PLAIN], [K1B, PLAIN], [("primary_material_changed", True)], id="other material, old one gone"
        ),
        pytest.param([K1], [K1B, K1], [("primary_material_changed", False)], id="other material, the old one reads"),
        pytest.param([K2, K1], [K2, K1B], [("read_material_changed", True)], id="other material of a read key"),
        pytest.param(
            [K1, K2],
            [K2, K1B],
            [("primary_key_changed", False), ("read_material_changed", True)],
            id="demoted, and with other material",
        ),
        pytest.param(
            [K2, K1],
            [K1B, K2],
            [("primary_key_changed", False), ("read_material_changed", True)],
            id="promoted, and with other material",
        ),
        pytest.param(
            [K1, K1B],
            [K1C, K2],
            [("primary_material_changed", True), ("read_key_removed", True), ("read_key_added", False)],
            id="two of one name became one",
        ),
        pytest.param([K1], [K1, K2], [("read_key_added", False)], id="a key to read with"),
        pytest.param([K1], [K1, PLAIN], [("read_key_added", False)], id="identity to read with"),
        pytest.param([K1], [K1, K1B], [("read_key_added", False)], id="a namesake to read with"),
        pytest.param([K1, K2], [K1], [("read_key_removed", True)], id="a key less"),
        pytest.param([K1, PLAIN], [K1], [("read_key_removed", True)], id="identity less => plaintext can't be read"),
        pytest.param([K1, K2, PLAIN], [K1, PLAIN, K2], [("order_changed", False)], id="another order of reading"),
        pytest.param(
            [K1, K2, PLAIN], [K1, PLAIN, BOX, K2], [("read_key_added", False), ("order_changed", False)], id="both"
        ),
        pytest.param([K1, K2], [K1, K2, K1], [], id="a key that stands there twice"),
        pytest.param([KMS], [KMS], [], id="KMS, with any key behind its name"),
        pytest.param([KEK_A, PLAIN], [KEK_A, PLAIN], [], id="a KMS provider under the same KEK"),
        pytest.param([KEK_A, PLAIN], [KEK_B, PLAIN], [("primary_kek_changed", False)], id="another KEK"),
        pytest.param([KMS], [KEK_A], [("primary_kek_changed", False)], id="an older record names no KEK"),
        pytest.param([KMS], [V1], [], id="an older record names no version"),
        pytest.param([K1, KMS], [K1, V2], [], id="nor that of a provider that reads"),
        pytest.param([K1, V2], [KEK_A, K1], [("primary_provider_changed", False)], id="from reading to writing"),
        pytest.param([KEK_A, K1], [K1, V2], [("primary_provider_changed", False)], id="from writing to reading"),
        pytest.param([KEK_A, OTHER], [OTHER_KEK, V2], [("primary_key_changed", False)], id="another KMS provider"),
        pytest.param([V1, PLAIN], [OTHER_KEK, V1, PLAIN], [("primary_key_changed", False)], id="v1 to v2, a new name"),
        pytest.param([V1, PLAIN], [KEK_A, V1, PLAIN], [("primary_key_changed", False)], id="v1 stays behind its name"),
        pytest.param([V1, PLAIN], [KEK_A, PLAIN], [("kms_version_changed", True)], id="case 22: v1 to v2 in one name"),
        pytest.param([V1], [V2], [("kms_version_changed", True)], id="case 22: and the KEK is not known yet"),
        pytest.param([K1, V2], [K1, V1], [("kms_version_changed", True)], id="v2 to v1, of a provider that reads"),
        pytest.param(
            [KEK_A, K1], [K1, V1],
            [("primary_provider_changed", False), ("kms_version_changed", True)],
            id="demoted, and with another version",
        ),
        pytest.param(
            [KEK_A], [OTHER_KEK], [("primary_key_changed", False), ("read_key_removed", True)], id="renamed",
        ),
        pytest.param(
            [K1, V2], [K1, OTHER], [("read_key_removed", True), ("read_key_added", False)], id="renamed, it reads"
        ),
        pytest.param([K1, V2, PLAIN], [K1, PLAIN], [("read_key_removed", True)], id="a KMS provider less"),
        pytest.param([V1, replace(V1, fingerprint="v1#2")], [V1], [("read_key_removed", True)], id="a namesake less"),
    ],
)  # fmt: skip
def test_a_resource_in_both(before: list[KeyRef], after: list[KeyRef], expected: list[tuple[str, bool]]) -> None:
    assert kinds({"secrets": before}, {"secrets": after}) == [("secrets", *one) for one in expected]


ADDED, REMOVED = "resource_added", "resource_removed"
NEW_KEY = "primary_key_changed"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            None,
            {"secrets": [K1], "*.apps": [PLAIN]},
            [("secrets", "first_sight", False), ("*.apps", "first_sight", False)],
            id="the first generation ever",
        ),
        pytest.param({"a": [K1]}, {"a": [K1], "b": [K1, PLAIN]}, [("b", ADDED, False)], id="added"),
        pytest.param({"a": [K1]}, {"a": [K1], "b": [K1]}, [("b", ADDED, True)], id="added, its plaintext unreadable"),
        pytest.param({"a": [K1], "b": [K1]}, {"a": [K1]}, [("b", REMOVED, True)], id="removed"),
        pytest.param({"a": [K1], "b": [PLAIN]}, {"a": [K1]}, [("b", REMOVED, False)], id="removed, was plaintext"),
        pytest.param({"*.*": [K1]}, {"*.*": [K1], "a": [K1]}, [], id="named, as its wildcard was"),
        pytest.param({"a": [K1], "*.*": [K1]}, {"*.*": [K1]}, [], id="left to its wildcard"),
        pytest.param({"*.*": [K1]}, {"a": [K2, K1], "*.*": [K1]}, [("a", NEW_KEY, False)], id="taken from a wildcard"),
        pytest.param({"a": [K2], "*.": [K1, K2]}, {"*.": [K1, K2]}, [("a", NEW_KEY, False)], id="left to another key"),
        pytest.param({"a.g": [K1]}, {"*.g": [K1]}, [("*.g", ADDED, True)], id="its group was added around it"),
        pytest.param({"*.g": [K1]}, {"a.g": [K1]}, [("*.g", REMOVED, True)], id="only it was left of its group"),
        pytest.param({"*.*": [K1]}, {"*.g": [K2, K1], "*.*": [K1]}, [("*.g", NEW_KEY, False)], id="a group apart"),
        pytest.param({"*.g": [K1], "*.*": [K2]}, {"*.*": [K1], "*.g": [K1]}, [
            ("*.*", NEW_KEY, False), ("*.*", "read_key_removed", True),
        ], id="the wider wildcard alone"),
        pytest.param({"a": [K1]}, {"a.g": [PLAIN]}, [("a.g", ADDED, False), ("a", REMOVED, True)], id="no relation"),
        pytest.param({"b": [K1], "a": [K1]}, {"a": [K2, K1], "b": [K2, K1]}, [
            ("a", NEW_KEY, False), ("b", NEW_KEY, False),
        ], id="in the order of the newer file"),
    ],
)  # fmt: skip
def test_resources_that_come_and_go(
    before: Chains | None, after: Chains, expected: list[tuple[str, str, bool]]
) -> None:
    assert kinds(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "because"),
    [
        pytest.param(
            None,
            {"secrets": [K1]},
            ["no earlier configuration is on record, and secrets is written with aescbc:k1 (1111111111111111)"],
            id="first sight",
        ),
        pytest.param(
            {"secrets": [K1]},
            {"secrets": [K2]},
            [
                (
                    "secrets is written with another key: aescbc:k2 (2222222222222222), before it was aescbc:k1 "
                    "(1111111111111111)"
                ),
                "aescbc:k1 (1111111111111111) was removed from secrets: objects that are still under it can't be read",
            ],
            id="another key",
        ),
        pytest.param(
            {"secrets": [PLAIN]},
            {"secrets": [BOX, PLAIN]},
            ["secrets is written with another provider: secretbox:k1 (3333333333333333), before it was identity"],
            id="another provider",
        ),
        pytest.param(
            {"secrets": [K1]},
            {"secrets": [K1B]},
            [
                (
                    "the primary key of secrets has other material under the same name: aescbc:k1 (bbbbbbbbbbbbbbbb), "
                    "before it was aescbc:k1 (1111111111111111), under which objects can't be read any more"
                ),
            ],
            id="other material",
        ),
        pytest.param(
            {"secrets": [K1, PLAIN], "b": [PLAIN]},
            {"b": [K1]},
            [
                "b is written with another provider: aescbc:k1 (1111111111111111), before it was identity",
                "identity was removed from b: objects that are still under it can't be read",
                (
                    "no entry governs secrets any more, which was written with aescbc:k1 (1111111111111111); new "
                    "objects are plaintext, and kube-apiserver can't read what is still under aescbc:k1 "
                    "(1111111111111111)"
                ),
            ],
            id="removed",
        ),
        pytest.param(
            {"a": [K1, K2, PLAIN]},
            {"a": [K1, PLAIN, K2], "b": [K1]},
            [
                (
                    "a is still written with aescbc:k1 (1111111111111111); its keys are tried as aescbc:k1 "
                    "(1111111111111111), identity, aescbc:k2 (2222222222222222)"
                ),
                (
                    "no entry governed b before, and it is now written with aescbc:k1 (1111111111111111); identity is "
                    "not among its providers: objects that are stored as plaintext can't be read"
                ),
            ],
            id="order, and added",
        ),
    ],
)
def test_the_sentence_names_provider_key_and_fingerprint(
    before: Chains | None, after: Chains, because: list[str]
) -> None:
    changes = detect(record(before) if before is not None else None, record(after))
    assert [change.because for change in changes] == because


@pytest.mark.parametrize("kind", ChangeKind)
def test_what_asks_for_a_campaign(kind: ChangeKind) -> None:
    asking = {"first_sight", "resource_added", "primary_provider_changed", "primary_key_changed"}
    seen = {
        change.kind: change.needs_campaign
        for before, after in (
            (None, {"a": [K1]}),
            ({"b": [K1]}, {"a": [K1]}),
            ({"a": [K1]}, {"a": [BOX]}),
            ({"a": [K1]}, {"a": [K2]}),
            ({"a": [K1]}, {"a": [K1B]}),
            ({"a": [K2, K1]}, {"a": [K2, K1B, PLAIN]}),
            ({"a": [K2, K1, PLAIN]}, {"a": [K2, PLAIN, K1]}),
        )
        for change in detect(record(before) if before is not None else None, record(after))
    }
    seen |= {change.kind: change.needs_campaign for change in kms_changes()}
    for after in ("d=a c=b", "c=b c=a"):
        seen |= {change.kind: change.needs_campaign for change in detect(with_sockets("c=a c=b"), with_sockets(after))}
    assert seen[kind] is (kind.value in asking | {"primary_material_changed", "primary_kek_changed"})


def kms_changes() -> list[Change]:
    """One change of each kind that only KMS providers have."""
    moved = (("v2:vault", "1"),), (("v2:vault", "2"),)
    here, there = (replace(record({"a": [KEK_A]}), sockets=sockets) for sockets in moved)
    return [
        *detect(record({"a": [KEK_A]}), record({"a": [KEK_B]})),
        *detect(record({"a": [V1]}), record({"a": [V2]})),
        *detect(here, there),
    ]


@pytest.mark.parametrize(
    ("claimed", "said"),
    [
        pytest.param(KeyRef("kms", "vault", "v1"), True, id="a value of v1 under the name of a provider of v2"),
        pytest.param(KeyRef("kms", "vault", "v2"), False, id="a damaged value of v2"),
        pytest.param(KeyRef("kms", "vault", "kms"), False, id="a value that the plugin refuses"),
        pytest.param(KeyRef("kms", "other", "v1"), False, id="a provider that is not configured"),
        pytest.param(KeyRef("aescbc", "vault", "v1"), False, id="another kind of provider"),
    ],
)
def test_stored_values_show_that_a_provider_turned_into_another_version(claimed: KeyRef, *, said: bool) -> None:
    tally = ResourceTally("secrets", KeyRef("kms", "vault", "a" * 16), (KeyRef("kms", "vault", "a" * 16),))
    tally.add_unreadable(b"/registry/secrets/a/b", Quarantine(Reason.UNKNOWN_PREFIX, "why", (claimed,)))
    changes = detect_in_store(Inventory(7, (tally,)))
    assert [(change.kind, change.is_refused) for change in changes] == [(ChangeKind.KMS_VERSION, True)] * said
    assert ("turned from v1 into v2" in why_refused(changes, "sha256:1")) is said


def test_the_changes_of_kms_say_what_they_do() -> None:
    assert [(change.danger, change.is_warning, change.is_refused) for change in kms_changes()] == [
        (False, False, False),
        (True, True, True),
        (False, True, False),
    ]
    kek, version, address = [change.because for change in kms_changes()]
    assert kek == (
        "a is written under another KEK of its KMS provider: kms:vault (bbbbbbbbbbbbbbbb), before it was kms:vault "
        "(aaaaaaaaaaaaaaaa)"
    )
    assert version == (
        "the KMS provider 'vault' of a turned from v1 into v2: all that is stored under kms:vault (v1) can't be read. "
        "Give the new one another name, and keep the former one behind it"
    )
    assert address == (
        "the plugin of kms:vault (v2), which a has, has another address: if it does not have the KEKs of the former "
        "one, objects under them can't be read"
    )


@pytest.mark.parametrize(
    ("before", "after", "is_said"),
    [
        pytest.param((("v2:vault", "1"),), (("v2:vault", "1"),), False, id="the same"),
        pytest.param((), (("v2:vault", "1"),), False, id="an older record names none"),
        pytest.param((("v1:vault", "1"),), (("v2:vault", "2"),), False, id="of another version"),
        pytest.param((("v2:vault", "1"),), (("v2:vault", "2"),), True, id="another"),
        pytest.param((("v2:cloud", "1"),), (("v2:cloud", "2"),), False, id="of a provider that the resource lacks"),
    ],
)
def test_another_address_of_a_plugin_is_a_warning(
    before: tuple[tuple[str, str], ...], after: tuple[tuple[str, str], ...], is_said: bool
) -> None:
    old, new = (replace(record({"a": [K1, V2]}), sockets=sockets) for sockets in (before, after))
    assert [change.kind for change in detect(old, new)] == [ChangeKind.KMS_ADDRESS] * is_said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        pytest.param("c=a", "d=a c=b", ["kms_name_reused"], id="the former address has a new name"),
        pytest.param("c=a x=b", "c=b x=a", ["kms_name_reused"], id="two names swapped"),
        pytest.param("c=a", "c=b d=c", ["kms_address_changed"], id="the former address is gone"),
        pytest.param("c=a d=a", "c=b d=a", ["kms_address_changed"], id="another name had that address before"),
        pytest.param("c=a", "c=a d=a", [], id="the address has a second name"),
        pytest.param("c=a c=b", "c=b c=a", ["kms_order_changed"], id="two of one name swapped"),
        pytest.param("c=a c=b", "c=a c=b", [], id="two of one name"),
    ],
)
def test_a_name_that_was_given_to_another_plugin_is_refused(before: str, after: str, said: list[str]) -> None:
    changes = detect(with_sockets(before), with_sockets(after))
    assert [change.kind for change in changes] == said
    assert all(change.is_warning for change in changes)
    assert [bool(why_refused([change], "sha256:1")) for change in changes] == [one == "kms_name_reused" for one in said]


def with_sockets(text: str) -> GenerationRecord:
    """A file with these KMS providers, `name=socket`, in this order; the resource has those of the name `c`."""
    pairs = tuple((f"v1:{name}", socket) for name, _, socket in (one.partition("=") for one in text.split()))
    of_c = [KeyRef("kms", "c", f"v1#{place + 1}" if place else "v1") for place in range(text.count("c="))]
    return replace(record({"a": [K1, *of_c]}), sockets=pairs)


def test_a_changes_fields_for_the_log() -> None:
    (change,) = detect(record({"a": [K1]}), record({"a": [K2, K1]}))
    assert change.log_context() == {"resource": "a", "change": "primary_key_changed", "because": change.because}


# ------------------------------------------------------------------------------------------------------------ any two

RESOURCES = st.sampled_from(
    ["secrets", "configmaps", "deployments.apps", "widgets.g.io", "*.", "*.apps", "*.g.io", "*.*"]
)
REFS = st.sampled_from([K1, K1B, K2, K9, BOX, KMS, PLAIN])
KMS_REFS = st.sampled_from([K1, V1, V2, OTHER, PLAIN])
KMS_RECORDS = st.lists(KMS_REFS, min_size=1, max_size=4).map(lambda keys: record({"secrets": keys}))
RECORDS = st.dictionaries(RESOURCES, st.lists(REFS, min_size=1, max_size=4), min_size=1, max_size=5).map(record)
NAMES = [*map(GroupResource.parse, ("secrets", "configmaps", "pods", "deployments.apps", "jobs.apps", "widgets.g.io"))]


def governing(generation: GenerationRecord, name: GroupResource) -> tuple[KeyRef, ...]:
    """The chain that reads a resource; what no entry governs is plaintext."""
    chains = {GroupResource.parse(resource): keys for resource, keys in generation.resources}
    for one in (name, GroupResource("*", name.group), GroupResource("*", "*")):
        if one in chains:
            return chains[one]
    return (PLAIN,)


@given(RECORDS)
def test_between_a_generation_and_itself_nothing_changed(one: GenerationRecord) -> None:
    assert detect(one, one) == ()
    assert detect(one, GenerationRecord("another hash", one.resources)) == ()


@given(RECORDS)
def test_at_first_sight_every_resource_asks_for_a_campaign(one: GenerationRecord) -> None:
    changes = detect(None, one)
    assert [(change.resource, change.kind) for change in changes] == [
        (resource, ChangeKind.FIRST_SIGHT) for resource, _ in one.resources
    ]
    assert all(change.needs_campaign and not change.danger for change in changes)


@given(RECORDS, RECORDS)
def test_each_resource_with_another_primary_needs_a_campaign(before: GenerationRecord, after: GenerationRecord) -> None:
    """Also for resources that no entry names: their wildcard asks, or what takes them out of it."""
    asking = {change.resource for change in detect(before, after) if change.needs_campaign}
    left = {change.resource for change in detect(before, after) if change.kind is ChangeKind.RESOURCE_REMOVED}
    for name in NAMES:
        covers = {str(name), str(GroupResource("*", name.group)), "*.*"}
        if governing(before, name)[0] != governing(after, name)[0]:
            assert covers & (asking | left)


@given(RECORDS, RECORDS)
def test_a_key_that_no_longer_reads_is_a_danger(before: GenerationRecord, after: GenerationRecord) -> None:
    dangers = {change.resource for change in detect(before, after) if change.danger}
    for name in NAMES:
        covers = {str(name), str(GroupResource("*", name.group)), "*.*"}
        if set(governing(before, name)) - set(governing(after, name)):
            assert covers & dangers


@given(RECORDS, RECORDS)
def test_each_change_is_told_once_and_names_its_resource(before: GenerationRecord, after: GenerationRecord) -> None:
    changes = detect(before, after)
    assert len(set(changes)) == len(changes)
    for change in changes:
        assert change.resource in change.because
        assert change.resource in {resource for resource, _ in (*before.resources, *after.resources)}
    primaries = [change.resource for change in changes if change.needs_campaign]
    assert len(set(primaries)) == len(primaries)


@given(RECORDS, RECORDS)
def test_another_chain_is_never_passed_over(before: GenerationRecord, after: GenerationRecord) -> None:
    told = {change.resource for change in detect(before, after)}
    for name in NAMES:
        covers = {str(name), str(GroupResource("*", name.group)), "*.*"}
        if list(dict.fromkeys(governing(before, name))) != list(dict.fromkeys(governing(after, name))):
            assert covers & told


@given(KMS_RECORDS, KMS_RECORDS)
def test_a_kms_provider_that_no_longer_reads_is_a_danger(before: GenerationRecord, after: GenerationRecord) -> None:
    [(_, old)], [(_, new)] = before.resources, after.resources
    assert any(change.danger for change in detect(before, after)) is bool(set(old) - set(new))


# --------------------------------------------------------------------------------------------------- from real files


def generation(*entries: tuple[str, Sequence[KeyedProvider | IdentityProvider]]) -> Generation:
    made = tuple(ResourceEntry((resource,), tuple(providers)) for resource, providers in entries)
    return Generation(repr(entries), EncryptionConfiguration(made), "encryption.yaml")


def cbc(*keys: tuple[str, int]) -> KeyedProvider:
    return KeyedProvider(ProviderType.AESCBC, tuple(Key(name, SecretBytes(bytes([fill]) * 32)) for name, fill in keys))


def test_material_under_the_same_name_is_told_apart_by_its_fingerprint() -> None:
    before = generation(("secrets", [cbc(("key1", 1)), IdentityProvider()]))
    after = generation(("secrets", [cbc(("key1", 2)), IdentityProvider()]))
    (change,) = detect(describe(before), describe(after))
    assert change.kind is ChangeKind.PRIMARY_MATERIAL
    for fill in (1, 2):
        assert SecretBytes(bytes([fill]) * 32).fingerprint("aescbc") in change.because


def test_entries_of_one_resource_are_one_chain() -> None:
    """Upstream concatenates them: moving a provider into an entry of its own changes nothing."""
    before = generation(("secrets", [cbc(("key1", 1)), IdentityProvider()]))
    after = generation(("secrets", [cbc(("key1", 1))]), ("secrets", [IdentityProvider()]))
    assert detect(describe(before), describe(after)) == ()


def test_a_comment_alone_changes_nothing_but_the_hash() -> None:
    secret = base64.b64encode(bytes(32)).decode()
    text = (
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n"
        f"  providers: [{{aescbc: {{keys: [{{name: k, secret: {secret}}}]}}}}, {{identity: {{}}}}]\n"
    ).encode()
    before, after = load_generation(text, "a"), load_generation(text + b"# soon to be rotated\n", "a")
    assert before.hash != after.hash
    assert detect(describe(before), describe(after)) == ()


def kms_file(address: str, comment: str = "") -> Generation:
    text = (
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n"
        f"  providers: [{{kms: {{apiVersion: v2, name: vault, endpoint: '{address}'}}}}, {{identity: {{}}}}]\n{comment}"
    )
    return load_generation(text.encode(), "a")


def test_a_kms_providers_kek_and_address_are_compared_not_the_files_bytes() -> None:
    a, b = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    before = describe(kms_file("unix:///run/a.sock").aimed({"vault": a}))
    alike = describe(kms_file("unix:/run/a.sock", comment="# the same socket\n").aimed({"vault": a}))
    assert before.resources == (("secrets", (KEK_A, PLAIN)),)
    assert before.hash != alike.hash
    assert detect(before, alike) == ()
    other_kek = describe(kms_file("unix:///run/a.sock").aimed({"vault": b}))
    assert [change.kind for change in detect(before, other_kek)] == [ChangeKind.PRIMARY_KEK]
    assert (before.file, before.hash != other_kek.hash) == (other_kek.file, True)
    moved = describe(kms_file("unix:///run/b.sock").aimed({"vault": a}))
    assert [change.kind for change in detect(before, moved)] == [ChangeKind.KMS_ADDRESS]
    assert "run" not in repr(moved)
