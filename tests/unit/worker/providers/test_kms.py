"""KMS values through the chain: which are malformed, which open, which are stale. The cases are numbered as planned."""

from __future__ import annotations

import base64
import random
from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import KmsProvider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, SealError, UnsupportedPrimaryError
from kube_rewrap.worker.providers import kms_v1, kms_v2
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.providers.cipher import MalformedError
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.verdict import NOT_RECOGNISED_DETAIL, Keep, KeyRef, Quarantine, Reason, Rewrap
from kube_rewrap.worker.wrapped import (
    DataKey,
    Plugin,
    RefusedKey,
    SourceType,
    UnwrappedKeys,
    WrappedKey,
    fingerprint_of_key_id,
    hash_of_key_id,
)
from tests.fakes.plugins import new_data_key, unwrap_all
from tests.unit.worker.providers.kms_values import cbc, fields_of, gcm, text, type_1, v1_body, v2_body, varint

ETCD_KEY = b"/registry/secrets/default/a"
OTHER_KEY = b"/registry/secrets/default/b"
OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'
KEY = bytes(range(32))
WRAPPED = base64.b64encode(KEY)

V1 = KmsProvider("v1", "old", "unix:///1.sock", 3.0, 1000)
V2 = KmsProvider("v2", "new", "unix:///2.sock", 3.0, None)
P1, P2 = Plugin("old", "v1", "unix:///1.sock"), Plugin("new", "v2", "unix:///2.sock")
H1, H2 = b"k8s:enc:kms:v1:old:", b"k8s:enc:kms:v2:new:"
KEK = fingerprint_of_key_id("kek-1")
OLD_FIRST, NEW_FIRST = (
    Chain([V1, V2], targets={"new": hash_of_key_id("kek-1")}),
    Chain([V2, V1], targets={"new": hash_of_key_id("kek-1")}),
)
STANZA_1, STANZA_2 = KeyRef("kms", "old", "kms"), KeyRef("kms", "new", "kms")


def opened(chain: Chain, value: bytes, key: bytes = ETCD_KEY) -> Opened | Quarantine:
    return chain.open(value, key, unwrap_all(chain.wanted(value)))


def reason(chain: Chain, value: bytes, key: bytes = ETCD_KEY) -> Reason:
    verdict = opened(chain, value, key)
    assert isinstance(verdict, Quarantine)
    return verdict.reason


def is_asked(value: bytes) -> bool:
    return NEW_FIRST.wanted(value) != ()


# ------------------------------------------------------------------------------------------------------------- case 3


def test_case_3_the_values_of_two_objects_swapped_are_both_quarantined() -> None:
    def v1(key: bytes) -> bytes:
        return H1 + v1_body(WRAPPED, gcm(KEY, OBJECT, key))

    def v2(key: bytes) -> bytes:
        return H2 + v2_body(type_1(KEY, OBJECT, key), source=WRAPPED)

    for seal, expected in ((v1, Reason.NOT_RECOGNISED), (v2, Reason.AUTHENTICATION_FAILED)):
        mine, other = seal(ETCD_KEY), seal(OTHER_KEY)
        assert isinstance(opened(NEW_FIRST, mine), Opened)
        assert isinstance(opened(NEW_FIRST, other, OTHER_KEY), Opened)
        assert reason(NEW_FIRST, other) is reason(NEW_FIRST, mine, OTHER_KEY) is expected


# ------------------------------------------------------------------------------------------------------------- case 4


@pytest.mark.parametrize("length", [16, 24, 32])
def test_case_4_type_0_opens_and_is_stale_under_the_target_key_id(length: int) -> None:
    key = KEY[:length]
    data, source = gcm(key, OBJECT, ETCD_KEY), base64.b64encode(key)
    for kind in ([], [varint(5 << 3) + b"\0"]):  # absent, as proto3 writes it, or written out
        value = H2 + b"".join([*fields_of(data, source=source)[:-1], *kind])
        type_0 = KeyRef("kms", "new", f"{KEK}-type0")
        assert opened(NEW_FIRST, value) == Opened(OBJECT, type_0, is_primary=False)
        assert NEW_FIRST.peek(value) == type_0
        assert NEW_FIRST.is_stale(type_0)


def test_case_4_nothing_is_written_with_type_0() -> None:
    seed = new_data_key(P2, "kek-1")
    as_type_0 = replace(seed, wrapped=replace(seed.wrapped, source_type=SourceType.AES_GCM_KEY))
    with pytest.raises(SealError, match="nothing was written"):
        NEW_FIRST.seal(OBJECT, ETCD_KEY, as_type_0)
    (wrapped,) = NEW_FIRST.wanted(NEW_FIRST.seal(OBJECT, ETCD_KEY, seed))
    assert wrapped.source_type is SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        pytest.param(v2_body(type_1(KEY, OBJECT, ETCD_KEY)), KEY[:31], id="a seed of 31 bytes"),
        pytest.param(v2_body(gcm(KEY, OBJECT, ETCD_KEY), kind=0), KEY[:31], id="a data key of 31 bytes"),
        pytest.param(v2_body(gcm(KEY, OBJECT, ETCD_KEY), kind=0), b"", id="no data key"),
        pytest.param(v2_body(bytes(31)), KEY, id="encrypted data of 31 bytes"),
        pytest.param(v2_body(bytes(32)), KEY, id="encrypted data of 32 bytes"),
        pytest.param(v2_body(bytes(59)), KEY, id="encrypted data of 59 bytes"),
        pytest.param(v2_body(bytes(60)), KEY, id="encrypted data of 60 bytes"),
        pytest.param(v2_body(type_1(KEY, OBJECT, ETCD_KEY)), KEY[::-1], id="another seed"),
    ],
)
def test_what_fails_after_the_plugin_was_asked_is_quarantined(value: bytes, secret: bytes) -> None:
    (wrapped,) = NEW_FIRST.wanted(H2 + value)
    verdict = NEW_FIRST.open(H2 + value, ETCD_KEY, {wrapped: SecretBytes(secret)})
    assert isinstance(verdict, Quarantine)
    assert (verdict.reason, verdict.claimed) == (Reason.AUTHENTICATION_FAILED, (STANZA_2,))


def test_a_seed_of_33_bytes_opens_as_upstream_reads_it() -> None:
    seed = KEY + b"x"
    value = H2 + v2_body(type_1(seed, OBJECT, ETCD_KEY), source=base64.b64encode(seed))
    assert isinstance(opened(NEW_FIRST, value), Opened)


# ------------------------------------------------------------------------------------------------------------- case 5

DATA = type_1(KEY, OBJECT, ETCD_KEY)
LABEL = b"a" * 63


def annotated(*annotations: tuple[bytes, bytes]) -> bytes:
    return v2_body(DATA, annotations=annotations)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(v2_body(b"x"), id="one byte of data"),
        pytest.param(v2_body(DATA, key_id=b"x"), id="key id of 1 byte"),
        pytest.param(v2_body(DATA, key_id=b"x" * 1024), id="key id of 1024 bytes"),
        pytest.param(v2_body(DATA, key_id="é".encode() * 512), id="key id of 1024 bytes and 512 letters"),
        pytest.param(v2_body(DATA, source=b"x" * 1024), id="source of 1024 bytes"),
        pytest.param(v2_body(DATA, kind=0), id="type 0"),
        pytest.param(annotated((b"a.b", bytes(32_765))), id="annotations of 32768 bytes"),
        pytest.param(annotated((b"a.b", bytes(30_000)), (b"c.d", bytes(2_762))), id="two of 32768 bytes"),
        pytest.param(annotated((b"a.b", b"")), id="an empty annotation"),
        pytest.param(annotated((b"a.b.", b"x")), id="a trailing dot"),
        pytest.param(annotated((b"0-1.b--c", b"x")), id="digits and hyphens"),
        pytest.param(annotated((LABEL + b".b", b"x")), id="a label of 63"),
        pytest.param(annotated((b".".join([LABEL] * 3) + b"." + b"b" * 61, b"x")), id="a name of 253"),
        pytest.param(annotated((b".".join([LABEL] * 3) + b"." + b"b" * 61 + b".", b"x")), id="a name of 253 and a dot"),
    ],
)
def test_case_5_the_limits_themselves_pass(body: bytes) -> None:
    assert is_asked(H2 + body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="no body"),
        pytest.param(v2_body(b""), id="no data"),
        pytest.param(v2_body(DATA, key_id=b""), id="no key id"),
        pytest.param(v2_body(DATA, key_id=b"x" * 1025), id="key id of 1025 bytes"),
        pytest.param(v2_body(DATA, key_id="é".encode() * 513), id="key id of 1026 bytes and 513 letters"),
        pytest.param(v2_body(DATA, source=b""), id="no source"),
        pytest.param(v2_body(DATA, source=b"x" * 1025), id="source of 1025 bytes"),
        pytest.param(v2_body(DATA, kind=2), id="type 2"),
        pytest.param(v2_body(DATA, kind=2**64 - 1), id="type -1"),
        pytest.param(annotated((b"a.b", bytes(32_766))), id="annotations of 32769 bytes"),
        pytest.param(annotated((b"a.b", bytes(30_000)), (b"c.d", bytes(2_763))), id="two of 32769 bytes"),
        pytest.param(annotated((b"", b"x")), id="no name"),
        pytest.param(annotated((b".", b"x")), id="a dot alone"),
        pytest.param(annotated((b"a", b"x")), id="one label"),
        pytest.param(annotated((b"a.", b"x")), id="one label and a dot"),
        pytest.param(annotated((b"a..b", b"x")), id="an empty label"),
        pytest.param(annotated((b"a.b..", b"x")), id="two trailing dots"),
        pytest.param(annotated((b"A.b", b"x")), id="an upper-case letter"),
        pytest.param(annotated((b"a_.b", b"x")), id="an underscore"),
        pytest.param(annotated((b"-a.b", b"x")), id="a hyphen in front"),
        pytest.param(annotated((b"a-.b", b"x")), id="a hyphen at the end of a label"),
        pytest.param(annotated((b"a.b\n", b"x")), id="a newline at the end"),
        pytest.param(annotated(("é.b".encode(), b"x")), id="a letter outside ASCII"),
        pytest.param(annotated((LABEL + b"a.b", b"x")), id="a label of 64"),
        pytest.param(annotated((b".".join([LABEL] * 3) + b"." + b"b" * 62, b"x")), id="a name of 254"),
        pytest.param(annotated((b"a.b", b"x"), (b"a", b"x")), id="the second name is wrong"),
    ],
)
def test_case_5_what_passes_a_limit_is_quarantined_and_no_plugin_is_asked(body: bytes) -> None:
    assert not is_asked(H2 + body)
    assert NEW_FIRST.peek(H2 + body) is None
    verdict = NEW_FIRST.open(H2 + body, ETCD_KEY)
    assert isinstance(verdict, Quarantine)
    assert (verdict.reason, verdict.claimed) == (Reason.AUTHENTICATION_FAILED, (STANZA_2,))


@pytest.mark.parametrize(
    "change",
    [
        {"key_id": ""},
        {"key_id": "x" * 1025},
        {"wrapped": b""},
        {"wrapped": b"x" * 1025},
        {"annotations": (("a", b"x"),)},
        {"annotations": (("a.b", bytes(32_766)),)},
    ],
    ids=str,
)
def test_case_5_nothing_is_written_past_a_limit_either(change: dict[str, object]) -> None:
    seed = new_data_key(P2, "kek-1")
    wrong = replace(seed, wrapped=replace(seed.wrapped, **change))  # type: ignore[arg-type]
    chain = Chain([V2], targets={"new": hash_of_key_id(wrong.wrapped.key_id)})
    with pytest.raises(SealError, match="nothing was written"):
        chain.seal(OBJECT, ETCD_KEY, wrong)


# ------------------------------------------------------------------------------------------------------------- case 6

FIELDS = fields_of(DATA, source=WRAPPED, annotations=[(b"a.b", b"1"), (b"c.d", b"2")])


def test_case_6_fields_open_in_any_order() -> None:
    dice = random.Random(6)
    for _ in range(20):
        shuffled = dice.sample(FIELDS, len(FIELDS))
        assert isinstance(opened(NEW_FIRST, H2 + b"".join(shuffled)), Opened)
    assert len({NEW_FIRST.wanted(H2 + b"".join(order)) for order in (FIELDS, FIELDS[::-1])}) == 1


def test_case_6_the_last_duplicate_wins() -> None:
    value = H2 + b"".join([text(2, b"kek-0"), text(4, text(1, b"a.b") + text(2, b"0")), *FIELDS])
    (wrapped,) = NEW_FIRST.wanted(value)
    assert (wrapped.key_id, wrapped.annotations) == ("kek-1", (("a.b", b"1"), ("c.d", b"2")))
    assert isinstance(opened(NEW_FIRST, value), Opened)


def test_case_6_unknown_fields_are_ignored() -> None:
    unknown = [
        text(99, b"x"),
        varint(98 << 3) + b"\x01",
        varint(97 << 3 | 5) + bytes(4),
        varint(96 << 3 | 1) + bytes(8),
    ]
    assert isinstance(opened(NEW_FIRST, H2 + b"".join([*unknown, *FIELDS, *unknown])), Opened)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"".join(FIELDS) + b"\x0a", id="a tag without content at the end"),
        pytest.param(b"".join(FIELDS) + b"\0", id="a zero at the end"),
        pytest.param(b"".join(FIELDS) + text(1, b"xy")[:-1], id="a field cut short"),
        pytest.param(b"".join(FIELDS) + varint(7 << 3 | 3) * 10_000, id="groups inside each other"),
        pytest.param(b"".join(FIELDS) + b"\xff" * 11, id="an endless number"),
        pytest.param(v2_body(DATA, key_id=b"\xff\xfe"), id="a key id that is not UTF-8"),
        pytest.param(v2_body(DATA, key_id=b"\xed\xa0\x80"), id="a key id with a surrogate"),
        pytest.param(annotated((b"\xff.b", b"x")), id="an annotation's name that is not UTF-8"),
        pytest.param(varint(2 << 3) + b"\x01" + b"".join([FIELDS[0], FIELDS[2]]), id="a key id of a wrong wire type"),
        pytest.param(b"\0" * 1_500_000, id="zeros"),
        pytest.param(b"x", id="a byte"),
    ],
)
def test_case_6_a_malformed_message_is_quarantined_and_no_plugin_is_asked(body: bytes) -> None:
    assert not is_asked(H2 + body)
    assert reason(NEW_FIRST, H2 + body) is Reason.AUTHENTICATION_FAILED


# ------------------------------------------------------------------------------------------------------------- case 7


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="one byte"),
        pytest.param(b"\0\x01", id="one byte missing"),
        pytest.param(b"\xff\xff" + bytes(65_534), id="the longest, one byte missing"),
        pytest.param(v2_body(DATA, source=WRAPPED), id="a value of v2"),
    ],
)
def test_case_7_v1_a_length_past_the_end_is_quarantined_and_no_plugin_is_asked(body: bytes) -> None:
    assert not is_asked(H1 + body)
    assert NEW_FIRST.peek(H1 + body) is None
    assert reason(NEW_FIRST, H1 + body) is Reason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("length", [0, 1, 12, 15, 16, 17, 27, 28, 31, 32, 47, 48])
def test_case_7_v1_a_short_inner_value_is_quarantined_after_the_plugin_was_asked(length: int) -> None:
    value = H1 + v1_body(WRAPPED, bytes(length))
    assert is_asked(value)
    verdict = opened(NEW_FIRST, value)
    detail = f"{STANZA_1}: {NOT_RECOGNISED_DETAIL}"
    assert verdict == Quarantine(Reason.NOT_RECOGNISED, detail, (STANZA_1,))


def test_case_7_v1_an_empty_wrapped_key_goes_to_the_plugin() -> None:
    value = H1 + v1_body(b"", gcm(KEY, OBJECT, ETCD_KEY))
    (wrapped,) = NEW_FIRST.wanted(value)
    assert wrapped == WrappedKey(P1, b"")
    verdict = NEW_FIRST.open(value, ETCD_KEY, {wrapped: SecretBytes(b"")})
    assert isinstance(verdict, Quarantine)
    assert verdict.reason is Reason.AUTHENTICATION_FAILED


def test_v1_the_longest_wrapped_key_is_written_and_read_a_longer_one_is_not() -> None:
    for length, is_written in ((65_535, True), (65_536, False)):
        data_key = DataKey(WrappedKey(P1, bytes(length)), SecretBytes(KEY))
        if not is_written:
            with pytest.raises(SealError, match="65536 bytes"):
                OLD_FIRST.seal(OBJECT, ETCD_KEY, data_key)
            return
        value = OLD_FIRST.seal(OBJECT, ETCD_KEY, data_key)
        assert OLD_FIRST.open(value, ETCD_KEY, {data_key.wrapped: data_key.secret}) == Opened(
            OBJECT, OLD_FIRST.primary, is_primary=True
        )


# ------------------------------------------------------------------------------------------------------------- case 8


def test_case_8_a_true_cbc_value_opens_and_is_stale() -> None:
    value = H1 + v1_body(WRAPPED, cbc(KEY, OBJECT))
    assert opened(OLD_FIRST, value) == Opened(OBJECT, KeyRef("kms", "old", "v1-cbc"), is_primary=False)
    assert decide(value, ETCD_KEY, OLD_FIRST, unwrap_all(OLD_FIRST.wanted(value))) == Rewrap(
        KeyRef("kms", "old", "v1-cbc"), OBJECT
    )
    rewritten = OLD_FIRST.seal(OBJECT, ETCD_KEY, new_data_key(P1))
    assert decide(rewritten, ETCD_KEY, OLD_FIRST, unwrap_all(OLD_FIRST.wanted(rewritten))) == Keep(OLD_FIRST.primary)


def test_case_8_a_damaged_gcm_value_never_passes_by_a_lucky_padding() -> None:
    dice, details, unpadded = random.Random(8), set[tuple[Reason, str]](), 0
    for _ in range(3_000):
        inner = bytearray(gcm(KEY, OBJECT + b" " * 4, ETCD_KEY) + bytes(5))  # 16 * 6 bytes: CBC reads it, too
        assert len(inner) % 16 == 0
        inner[dice.randrange(len(inner))] ^= 1 << dice.randrange(8)
        value = H1 + v1_body(WRAPPED, bytes(inner))
        verdict = opened(OLD_FIRST, value)
        assert isinstance(verdict, Quarantine)
        details.add((verdict.reason, verdict.detail))
        unpadded += _unpads(bytes(inner))
    assert unpadded > 3
    assert details == {(Reason.NOT_RECOGNISED, f"{STANZA_1}: {NOT_RECOGNISED_DETAIL}")}


def _unpads(inner: bytes) -> bool:
    try:
        plaintext, by_gcm = kms_v1.open_recognised(inner, SecretBytes(KEY), ETCD_KEY, lambda _: True)
    except Exception:  # noqa: BLE001 - the padding is wrong
        return False
    return not by_gcm and plaintext != OBJECT


def test_v1_what_authenticates_and_is_no_object_is_told_apart() -> None:
    assert reason(OLD_FIRST, H1 + v1_body(WRAPPED, gcm(KEY, b"no object", ETCD_KEY))) is Reason.NOT_KUBERNETES
    assert reason(OLD_FIRST, H1 + v1_body(WRAPPED, cbc(KEY, b"no object"))) is Reason.NOT_RECOGNISED


# ------------------------------------------------------------------------------------------------------------- case 9


def test_case_9_two_v1_providers_of_one_name_the_second_one_opens_and_the_value_is_stale() -> None:
    second = replace(V1, endpoint="unix:///other.sock")
    chain = Chain([V1, second], targets={})
    value = H1 + v1_body(b"wrapped", gcm(KEY, OBJECT, ETCD_KEY))
    first_key, second_key = chain.wanted(value)
    assert (first_key.plugin, second_key.plugin) == (P1, replace(P1, endpoint="unix:///other.sock"))
    right, wrong, no = SecretBytes(KEY), SecretBytes(KEY[::-1]), RefusedKey("it does not know this key")
    stale = Opened(OBJECT, KeyRef("kms", "old", "v1#2"), is_primary=False)
    assert chain.open(value, ETCD_KEY, {first_key: no, second_key: right}) == stale
    assert chain.open(value, ETCD_KEY, {first_key: wrong, second_key: right}) == stale
    assert chain.is_stale(stale.ref)
    assert chain.open(value, ETCD_KEY, {first_key: right, second_key: no}) == Opened(OBJECT, chain.primary, True)


def test_case_9_what_neither_opens_is_a_try_if_a_key_was_tried() -> None:
    chain = Chain([V1, replace(V1, endpoint="unix:///other.sock")], targets={})
    value = H1 + v1_body(b"wrapped", gcm(KEY, OBJECT, ETCD_KEY))
    first_key, second_key = chain.wanted(value)
    wrong, no = SecretBytes(KEY[::-1]), RefusedKey("it does not know this key")

    def why(unwrapped: UnwrappedKeys) -> Reason:
        verdict = chain.open(value, ETCD_KEY, unwrapped)
        assert isinstance(verdict, Quarantine)
        return verdict.reason

    assert why({first_key: no, second_key: no}) is Reason.KMS_REFUSED
    assert why({first_key: no, second_key: wrong}) is Reason.NOT_RECOGNISED
    assert why({first_key: wrong, second_key: no}) is Reason.NOT_RECOGNISED


# ------------------------------------------------------------------------------------------------------------ case 18


def test_case_18_a_data_key_under_another_key_id_than_the_target_seals_nothing() -> None:
    with pytest.raises(KmsRefusedError, match=KEK):
        NEW_FIRST.seal(OBJECT, ETCD_KEY, new_data_key(P2, "kek-2"))


def test_case_18_what_was_sealed_under_the_former_target_is_stale_under_the_new_one() -> None:
    value = NEW_FIRST.seal(OBJECT, ETCD_KEY, new_data_key(P2, "kek-1"))
    moved = Chain([V2, V1], targets={"new": hash_of_key_id("kek-2")})
    assert opened(NEW_FIRST, value) == Opened(OBJECT, KeyRef("kms", "new", KEK), is_primary=True)
    assert opened(moved, value) == Opened(OBJECT, KeyRef("kms", "new", KEK), is_primary=False)
    assert moved.primary == KeyRef("kms", "new", fingerprint_of_key_id("kek-2"))


def test_case_18_nothing_passes_for_current_while_the_target_is_unknown() -> None:
    value = NEW_FIRST.seal(OBJECT, ETCD_KEY, new_data_key(P2, "kek-1"))
    aimless = Chain([V2, V1], targets={})
    assert aimless.primary == STANZA_2
    assert opened(aimless, value) == Opened(OBJECT, KeyRef("kms", "new", KEK), is_primary=False)
    assert not aimless.is_stale(KeyRef("kms", "new", KEK))  # not known to be
    assert aimless.is_stale(KeyRef("kms", "old", "v1"))
    with pytest.raises(KmsRefusedError, match="'new'"):
        aimless.require_writable()
    with pytest.raises(KmsRefusedError):
        aimless.seal(OBJECT, ETCD_KEY, new_data_key(P2, "kek-1"))


# ------------------------------------------------------------------------------------------------------------ the rest


def test_another_source_under_the_same_key_id_is_current() -> None:
    for _ in range(3):
        value = NEW_FIRST.seal(OBJECT, ETCD_KEY, new_data_key(P2, "kek-1"))
        assert isinstance(verdict := opened(NEW_FIRST, value), Opened)
        assert verdict.is_primary


@pytest.mark.parametrize("name", ["old", "a:b", "2024-01-01T00:00:00Z", ":", "ünï"])
def test_v1_a_name_with_colons_is_matched_whole(name: str) -> None:
    provider = replace(V1, name=name)
    chain = Chain([replace(V1, name=name.split(":", maxsplit=1)[0] or "x"), provider], targets={})
    alone = Chain([provider], targets={})
    assert alone.kms_primary is not None
    plugin, _ = alone.kms_primary
    value = alone.seal(OBJECT, ETCD_KEY, new_data_key(plugin))
    assert opened(alone, value) == Opened(OBJECT, KeyRef("kms", name, "v1"), is_primary=True)
    assert isinstance(opened(chain, value), Opened)


def test_a_value_whose_key_was_not_fetched_is_the_callers_fault() -> None:
    value = H2 + b"".join(FIELDS)
    with pytest.raises(LookupError, match="before `open`"):
        NEW_FIRST.open(value, ETCD_KEY)


def test_a_refused_key_is_quarantined_with_the_reason_given() -> None:
    value = H2 + b"".join(FIELDS)
    (wrapped,) = NEW_FIRST.wanted(value)
    verdict = NEW_FIRST.open(value, ETCD_KEY, {wrapped: RefusedKey("the plugin works, and does not unwrap its key")})
    detail = f"{STANZA_2}: the plugin works, and does not unwrap its key"
    assert verdict == Quarantine(Reason.KMS_REFUSED, detail, (STANZA_2,))


def test_a_primary_of_v1_needs_no_target() -> None:
    chain = Chain([V1], targets={})
    chain.require_writable()
    assert (chain.primary, chain.keys, chain.kms_primary) == (KeyRef("kms", "old", "v1"), (STANZA_1,), (P1, ""))
    with pytest.raises(UnsupportedPrimaryError, match="'old'"):
        Chain([V1]).require_writable()


@pytest.mark.parametrize(
    "data_key",
    [None, new_data_key(P2, "kek-1"), new_data_key(replace(P1, endpoint="unix:///other.sock"))],
    ids=["none", "of another provider", "of another plugin"],
)
def test_sealing_needs_a_data_key_of_the_primary(data_key: DataKey | None) -> None:
    with pytest.raises(ValueError, match="data key"):
        OLD_FIRST.seal(OBJECT, ETCD_KEY, data_key)


def test_no_two_sealings_with_one_seed_are_alike() -> None:
    seed = new_data_key(P2, "kek-1")
    values = {NEW_FIRST.seal(OBJECT, ETCD_KEY, seed) for _ in range(200)}
    infos = {kms_v2.split(value[len(H2) :], P2)[1][:32] for value in values}
    assert (len(values), len(infos)) == (200, 200)


def test_nothing_secret_or_untrusted_is_printed() -> None:
    secret, key_id = b"canary-secret-0123456789-abcdef!", "canary-key-id"
    seed = new_data_key(P2, key_id, secret)
    chain = Chain([V2, V1], targets={"new": hash_of_key_id(key_id)})
    value = chain.seal(OBJECT, ETCD_KEY, seed)
    things = [seed, chain, chain._links, chain.wanted(value), chain.peek(value), opened(chain, value)]
    things += [opened(chain, value, OTHER_KEY), chain.kms_primary[0] if chain.kms_primary else None]
    try:
        chain.open(value, ETCD_KEY)
    except LookupError as error:
        things.append(error)
    shown = repr(things) + str(things[-1])
    assert "Secret" not in shown.replace("SecretBytes", "")
    for hidden in ("canary", base64.b64encode(secret).decode(), "local-kek"):
        assert hidden not in shown


def test_the_old_word_for_kms_values_is_read_from_records() -> None:
    assert Reason("kms_not_supported") is Reason("kms_refused") is Reason.KMS_REFUSED
    with pytest.raises(ValueError, match="nonsense"):
        Reason("nonsense")


def test_malformed_bytes_raise_one_error() -> None:
    for split, plugin in ((kms_v1.split, P1), (kms_v2.split, P2)):
        with pytest.raises(MalformedError):
            split(b"\xff\xff", plugin)
