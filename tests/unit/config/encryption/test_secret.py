from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes

KEY = b"sixteen byte key"
MASK = "SecretBytes(<masked>)"


WAYS: dict[str, Callable[[SecretBytes], str]] = {
    "repr": repr,
    "str": str,
    "format": format,
    "f-string": lambda secret: f"{secret}",
    "f-string with a width": lambda secret: f"{secret:>40}",
    "percent": lambda secret: "%s" % secret,  # noqa: UP031 - one of the ways
    "in a tuple": lambda secret: repr((secret,))[1:-2],
}


@pytest.mark.parametrize("show", WAYS.values(), ids=WAYS)
def test_every_way_of_printing_is_masked(show: Callable[[SecretBytes], str]) -> None:
    assert show(SecretBytes(KEY)) == MASK


def test_a_format_width_does_not_show_it_either() -> None:
    assert format(SecretBytes(KEY), ">100") == MASK


def test_reveal_returns_the_bytes() -> None:
    assert SecretBytes(KEY).reveal() == KEY
    assert len(SecretBytes(KEY)) == 16


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy, SecretBytes.__getstate__])
def test_refuses_pickle_and_copy(leak: Callable[[SecretBytes], object]) -> None:
    with pytest.raises(TypeError, match="can't be pickled or copied"):
        leak(SecretBytes(KEY))


def test_refuses_every_pickle_protocol() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(SecretBytes(KEY), protocol)


def test_reduce_itself_is_refused() -> None:
    with pytest.raises(TypeError):
        SecretBytes(KEY).__reduce__()


def test_has_nothing_for_vars_to_show() -> None:
    with pytest.raises(TypeError):
        vars(SecretBytes(KEY))


def test_can_not_be_changed() -> None:
    secret = SecretBytes(KEY)
    with pytest.raises(TypeError):
        secret._value = b"other"
    with pytest.raises(TypeError):
        del secret._value
    assert secret.reveal() == KEY


def test_equal_bytes_are_equal_and_hash_alike() -> None:
    assert SecretBytes(KEY) == SecretBytes(KEY)
    assert hash(SecretBytes(KEY)) == hash(SecretBytes(KEY))
    assert SecretBytes(KEY) != SecretBytes(KEY[::-1])
    assert SecretBytes(KEY) != SecretBytes(KEY + b"\0")
    assert SecretBytes(KEY) != KEY


def test_the_fingerprint_is_16_hex_digits_over_length_prefixed_parts() -> None:
    parts = (b"kube-rewrap/key-fingerprint/v1", b"aescbc", KEY)
    encoded = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    assert SecretBytes(KEY).fingerprint("aescbc") == hashlib.sha256(encoded).hexdigest()[:16]


def test_one_key_under_two_providers_has_two_fingerprints() -> None:
    assert SecretBytes(KEY).fingerprint("aescbc") != SecretBytes(KEY).fingerprint("aesgcm")


def test_moving_a_byte_between_the_parts_changes_the_fingerprint() -> None:
    assert SecretBytes(b"cbc").fingerprint("aes") != SecretBytes(b"bc").fingerprint("aesc")
