"""The messages of the KMS services, and the decoding of hostile bytes."""

import time

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.kms.errors import extract, translate
from kube_rewrap.worker.kms.messages import message, path_of
from kube_rewrap.worker.kms_limits import fault_of_annotations


def test_wire_bytes_are_upstreams() -> None:
    request = message("v2", "DecryptRequest")(ciphertext=b"c", uid="u", key_id="k", annotations={"a.b": b"v"})
    assert request.SerializeToString() == b"\x0a\x01c\x12\x01u\x1a\x01k\x22\x08\x0a\x03a.b\x12\x01v"
    answer = message("v2", "EncryptResponse").FromString(b"\x0a\x01c\x12\x01k\x1a\x08\x0a\x03a.b\x12\x01v")
    assert (answer.ciphertext, answer.key_id, dict(answer.annotations)) == (b"c", "k", {"a.b": b"v"})
    old = message("v1beta1", "EncryptRequest")(version="v1beta1", plain=b"p")
    assert old.SerializeToString() == b"\x0a\x07v1beta1\x12\x01p"
    assert path_of("v1beta1", "Decrypt") == "/v1beta1.KeyManagementService/Decrypt"


@given(
    st.sampled_from([("v2", "StatusResponse"), ("v2", "EncryptResponse"), ("v1beta1", "DecryptResponse")]),
    st.binary(max_size=300),
)
def test_hostile_answers_decode_or_raise_one_error(name: tuple[str, str], body: bytes) -> None:
    try:
        decoded = message(*name).FromString(body)
    except DecodeError:
        return
    if name[1] == "EncryptResponse":
        fault_of_annotations(sorted(decoded.annotations.items()))
        decoded.key_id.encode()


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("a.b", True), ("a.b.", True), ("a-1.b", True), (f"{'a' * 63}.b", True),
        (".".join(["a" * 63] * 3 + ["a" * 61]), True),
        ("a", False), ("", False), (".", False), ("a..b", False), ("A.b", False), ("a_b.c", False), ("-a.b", False),
        ("a-.b", False), (f"{'a' * 64}.b", False), (".".join(["a" * 63] * 3 + ["a" * 62]), False), ("a.b\n", False),
        ("a.b\nc.d", False), ("\na.b", False), (f"{'a' * 63}." * 3 + "a" * 61 + ".", True),
    ],
)  # fmt: skip
def test_names_of_annotations(name: str, valid: bool) -> None:
    assert (fault_of_annotations([(name, b"")]) == "") is valid


@pytest.mark.parametrize("last", ["A.b", "a", "a.b\n", "a" * 64 + ".b", ("a" * 63 + ".") * 4 + "a"])
def test_one_wrong_name_among_thousands_is_found(last: str) -> None:
    names = [(f"{number:x}.b", b"") for number in range(5_000)]
    assert fault_of_annotations([*names, ("a.b", b"")]) == ""
    for place in (0, 2_500, 5_000):
        assert fault_of_annotations([*names[:place], (last, b""), *names[place:]]) != ""


@pytest.mark.parametrize(
    "name", ["a-" * 126, "a." * 125 + "_", "a" * 253, "a.a-" * 62 + "_", ("a" * 63 + ".") * 3 + "_"]
)
def test_names_that_are_almost_right_are_judged_within_milliseconds(name: str) -> None:
    right = [("a" * 63 + ".b", b"")] * 400
    assert fault_of_annotations(right) == ""
    began = time.process_time()
    fault_of_annotations([*right, (name, b"")])
    assert time.process_time() - began < 0.5


@given(st.text())
def test_an_extract_is_short_and_printable(text: str) -> None:
    assert len(extract(text)) <= 300
    assert all(" " <= one <= "~" for one in extract(text))


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_has_an_error_without_the_plugins_text(code: grpc.StatusCode) -> None:
    assert "secret" not in str(translate(code, "secret", "the plugin", "Decrypt"))
    assert str(translate(code, "secret", "the plugin", "Decrypt")).endswith(" (Decrypt)")
