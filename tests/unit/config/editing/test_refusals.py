"""Edits that are refused: what would not be safe, what would be a guess, and texts that kube-apiserver refuses."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from kube_rewrap.config.editing import splice
from kube_rewrap.config.editing.edit import (
    EditError,
    add_read_key,
    drop_identity,
    drop_key,
    promote,
)
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import Key, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError
from tests.unit.config.editing.styles import (
    AESCBC,
    ENTRY,
    INDENTED,
    NEW,
    SECRETBOX,
    TWO,
    A,
    B,
    C,
    N,
)


def refused(edit: Callable[[], bytes]) -> str:
    with pytest.raises(EditError) as caught:
        edit()
    (fault,) = caught.value.faults
    assert caught.value.file == "f"
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    shown = "".join(traceback.format_exception(caught.value))
    assert not any(secret in shown for secret in (A, B, C, N))
    return str(fault)


WHOLE = INDENTED.whole


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda: drop_key(WHOLE, "f", [0], AESCBC, "a"),
            "kube-apiserver writes with this key; promote another key first",
        ),
        (
            lambda: drop_key(WHOLE, "f", [0], AESCBC, "c"),
            "no aescbc key there has this name; check name, provider and entry",
        ),
        (
            lambda: drop_identity(TWO.encode(), "f", [1]),
            "kube-apiserver writes with identity; promote a key first",
        ),
        (
            lambda: drop_identity(TWO.encode(), "f", [0]),
            "there is no identity provider; check which entries still have one",
        ),
        (
            lambda: add_read_key(WHOLE, "f", [0], AESCBC, Key("b", NEW.secret)),
            "the entry already has the new key or its name; take another key and name",
        ),
        (
            lambda: add_read_key(WHOLE, "f", [0], SECRETBOX, Key("new", SecretBytes(b"c" * 32))),
            "the entry already has the new key or its name; take another key and name",
        ),
    ],
)
def test_what_would_not_be_safe_is_refused(edit: Callable[[], bytes], message: str) -> None:
    assert refused(edit).split(": ", 1)[1] == message


def test_a_name_that_two_keys_have_is_refused() -> None:
    raw = WHOLE.replace(b'name: "b"', b"name: a")
    by_hand = "edit the file by hand: rotate --manual prints its new content for each step"
    assert refused(lambda: promote(raw, "f", [0], AESCBC, "a")) == (
        f"resources[0].providers: several aescbc keys there have this name; {by_hand}"
    )


@pytest.mark.parametrize(
    ("provider_type", "key"),
    [(ProviderType.IDENTITY, NEW), (SECRETBOX, Key("k", SecretBytes(b"k" * 16))), (AESCBC, Key("", NEW.secret))],
)
def test_what_is_no_key_is_a_bug_of_the_callers(provider_type: ProviderType, key: Key) -> None:
    with pytest.raises(ValueError, match="not a valid key for"):
        add_read_key(WHOLE, "f", [0], provider_type, key)


KEY_A, KEY_B = f"{{name: a, secret: {A}}}", f"{{name: b, secret: {B}}}"

KEYS = f"keys: [{KEY_A}, {KEY_B}]"

JSON = (
    '{"apiVersion": "v1", "kind": "EncryptionConfig", "resources": [{"resources": ["secrets"], "providers": [{'
    f'"aescbc": {{"keys": [{{"name": "a", "secret": "{A}"}}, {{"name": "b", "secret": "{B}"}}]}}}}]}}]}}'
)

SHARED = "it has an anchor, alias, merge key or tag"

LOST = "its parts can't be found in the text"

MORE = "text follows the first document, which kube-apiserver would ignore"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{ENTRY}  - aescbc: &x {{{KEYS}}}\n  - aesgcm: *x\n", f"resources[0].providers[0].aescbc (line 6): {SHARED}"),
        (f"{ENTRY}  - aescbc:\n      <<: {{{KEYS}}}\n", f"resources[0].providers[0].aescbc (line 7): {SHARED}"),
        (f"{ENTRY}  - !!map\n    aescbc: {{{KEYS}}}\n", f"resources[0].providers[0] (line 6): {SHARED}"),
        (
            f"{ENTRY}  - aescbc: {{{KEYS.replace(A, f'&x {A}')}}}\n",
            f"resources[0].providers[0].aescbc.keys (line 6): {SHARED}",
        ),
        (f"{ENTRY}  - aescbc: {{{KEYS}}}\n---\nmore: 1\n", MORE),
        (f"{ENTRY}  - aescbc: {{{KEYS}}}\n...\nmore: 1\n", MORE),
        (f"{ENTRY}  - aescbc: {{{KEYS}}}\r# x\n", "it has line breaks other than LF and CR LF"),
        (
            f"{ENTRY}  - aescbc:\n      keys: [{KEY_A}, # old\n       {KEY_B}]\n",
            "resources[0].providers[0].aescbc.keys (line 7): a list in brackets has comments between its items",
        ),
        (
            f"{ENTRY}  - aescbc:\n      ? keys\n      : - {KEY_A}\n        - {KEY_B}\n",
            "resources[0].providers[0].aescbc.keys (line 8): the dash of an item is not the first thing on its line",
        ),
        (
            JSON.replace(": [", "\n: [", 1),
            f"line 2: {LOST}: while parsing a flow mapping, did not find expected ',' or '}}'",
        ),
        (
            JSON.replace('"a"', '"\x7f"'),
            f"{LOST}: it holds a character that YAML does not allow",
        ),
        (
            # The second name is resolved to `keys` by YAML's rules, and is another text.
            f"{ENTRY}  - aescbc:\n      !!binary a2V5cw==: [{KEY_A}, {KEY_B}]\n",
            "resources[0].providers[0].aescbc.keys (line 7): the field can't be found in the text",
        ),
    ],
)
def test_what_would_be_a_guess_is_refused(text: str, place: str) -> None:
    load(text.encode(), "f")
    by_hand = "edit the file by hand: rotate --manual prints its new content for each step"
    assert refused(lambda: promote(text.encode(), "f", [0], AESCBC, "b")) == f"{place}; {by_hand}"


def test_sharing_elsewhere_does_not_matter() -> None:
    elsewhere = "- resources: &r [configmaps]\n  providers: &p [identity: {}]\n- resources: [pods]\n  providers: *p\n"
    raw = f"{ENTRY}  - aescbc:\n      {KEYS}\n{elsewhere}"
    edited = promote(raw.encode(), "f", [0], AESCBC, "b").decode()
    assert edited == raw.replace(KEYS, f"keys: [{KEY_B}, {KEY_A}]")


def test_another_encoding_than_utf_8_is_refused() -> None:
    raw = "\ufeff".encode("utf-16-le") + WHOLE.decode().encode("utf-16-le")
    load(raw, "f")
    assert refused(lambda: promote(raw, "f", [0], AESCBC, "b")).startswith(
        "its text is not UTF-8; edit the file by hand"
    )


def test_a_file_that_kube_apiserver_refuses_is_not_edited() -> None:
    with pytest.raises(ConfigError) as caught:
        promote(b"kind: x\n", "f", [0], AESCBC, "b")
    assert not isinstance(caught.value, EditError)


@pytest.mark.parametrize("wrong", [b"", b"kind: x\n", WHOLE.replace(b"secrets", b"configmaps")])
def test_an_edit_that_did_something_else_is_never_returned(wrong: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "move_to_front", lambda *_: wrong.decode())
    assert refused(lambda: promote(WHOLE, "f", [0], AESCBC, "b")).startswith(
        "the edited text would have another meaning than the edit intends; edit the file by hand"
    )


def test_an_edit_that_fails_in_one_entry_fails() -> None:
    assert refused(lambda: promote(TWO.encode(), "f", [0, 1], AESCBC, "a")) == (
        "resources[1].providers: no aescbc key there has this name; check name, provider and entry"
    )
