"""Each edit in each style, to the byte; what is refused; kube-apiserver's own texts, edited rightly or not at all."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from kube_rewrap.config.editing import splice
from kube_rewrap.config.editing.edit import (
    EditError,
    add_read_key,
    drop_identity,
    drop_key,
    entries_naming,
    generate_key,
    new_key_name,
    promote,
)
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError

GOLDEN = Path(__file__).parents[3] / "golden" / "encryption-config-verdicts.jsonl"
HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
ENTRY = f"{HEAD}resources:\n- resources: [secrets]\n  providers:\n"
AESCBC, AESGCM, SECRETBOX = ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX

A, B, C, N = (base64.b64encode(letter * 32).decode() for letter in (b"a", b"b", b"c", b"n"))
NEW = Key("key-20261123", SecretBytes(b"n" * 32))

Edit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Style:
    """The parts of one file: a provider aescbc with keys a and b, secretbox with key c, identity."""

    name: str
    before: str
    opening: str
    a: str
    b: str
    new_key: str
    secretbox: str
    identity: str
    new_provider: str
    closing: str = ""
    key_gap: str = ""
    provider_gap: str = ""
    after: str = ""

    def aescbc(self, *keys: str) -> str:
        return self.opening + self.key_gap.join(keys) + self.closing

    def text(self, *providers: str) -> bytes:
        return (self.before + self.provider_gap.join(providers) + self.after).encode()

    @property
    def whole(self) -> bytes:
        return self.text(self.aescbc(self.a, self.b), self.secretbox, self.identity)


INDENTED = Style(
    name="lists indented, comments everywhere",
    before=f"# top\n{HEAD}resources: # all\n  # the first entry\n  - resources:\n      - secrets\n    providers:\n",
    opening="      # writes\n      - aescbc: # since 2024\n          keys:\n",
    a=f"            # - name: commented\n            - name: a # in use\n              secret: {A}\n"
    "              # made by hand\n\n",
    b=f"            # the oldest\n            # of all\n            - name: \"b\"\n\n              secret: '{B}' # x\n",
    new_key=f"            - name: key-20261123\n              secret: {N}\n",
    secretbox=f"      # of old\n      - secretbox:\n          keys:\n            - name: c\n              secret: {C}\n"
    "            # no more keys\n",
    identity="      # plaintext\n      - identity: {}\n",
    new_provider=f"      - aesgcm:\n          keys:\n            - name: key-20261123\n              secret: {N}\n",
    after="# top again\n",
)
# A blank line behind an item stays where it is, so key a of the style above is not the last thing before it.
INDENTED = replace(INDENTED, a=INDENTED.a.removesuffix("\n"))

BLOCK = [
    INDENTED,
    Style(
        name="lists not indented",
        before=ENTRY,
        opening="  - aescbc:\n      keys:\n",
        a=f"      - name: a\n        secret: {A}\n",
        b=f"      - secret: {B}\n        name: b\n",
        new_key=f"      - name: key-20261123\n        secret: {N}\n",
        secretbox=f"  - secretbox:\n      keys:\n      - name: c\n        secret: {C}\n",
        identity="  - identity: {}\n",
        new_provider=f"  - aesgcm:\n      keys:\n      - name: key-20261123\n        secret: {N}\n",
    ),
    Style(
        name="odd indentation, keys on the lines below their dashes",
        before=f"{HEAD}resources:\n -  providers:\n",
        opening="        -   aescbc:\n             keys:\n",
        a=f"                -\n                 name: a\n                 secret: {A}\n",
        b=f"                - # b\n                       name: b\n                       secret: {B}\n",
        new_key=f"                - name: key-20261123\n                  secret: {N}\n",
        secretbox=f"        - secretbox:\n              keys: [{{name: c, secret: {C}}}]\n",
        identity="        -    identity: {\n   }\n",
        new_provider="        -   aesgcm:\n             keys:\n                - name: key-20261123\n"
        f"                  secret: {N}\n",
        after="    resources:\n      - secrets\n",
    ),
    Style(
        name="items in braces",
        before=ENTRY,
        opening="  - aescbc:\n      keys:\n",
        a=f"      -  {{name: a, secret: {A}}} # one\n",
        b=f"      - {{name: b, # x\n         secret: {B}}}\n",
        new_key=f"      -  {{name: key-20261123, secret: {N}}}\n",
        secretbox=f"  - {{secretbox: {{keys: [{{name: c, secret: {C}}}]}}}}\n",
        identity="  - {identity: {}}\n",
        new_provider=f"  - aesgcm:\n      keys:\n      - name: key-20261123\n        secret: {N}\n",
    ),
    Style(
        name="secrets over several lines, explicit keys, tags",
        before=f"{HEAD}? resources\n:\n- resources: [secrets]\n  providers:\n",
        opening="  - aescbc:\n      keys:\n",
        a=f"      - name: !!str a\n        secret: |\n          {A[:20]}\n          {A[20:]}\n",
        b=f"      - name: 'b'\n        secret: >-\n          {B}\n",
        new_key=f"      - name: key-20261123\n        secret: {N}\n",
        secretbox=f"  - secretbox:\n      keys:\n      - name: c\n        secret: |+\n          {C}\n",
        identity="  - identity:\n      {}\n",
        new_provider=f"  - aesgcm:\n      keys:\n      - name: key-20261123\n        secret: {N}\n",
    ),
]

FLOW = [
    Style(
        name="lists in brackets",
        before=f"{ENTRY[:-1]} [ ",
        opening="{aescbc: {keys: [",
        a=f"{{name: a, secret: {A}}}",
        b=f"{{secret: '{B}', name: \"b\"}}",
        new_key=f"{{name: key-20261123, secret: {N}}}",
        secretbox=f"{{secretbox: {{keys: [{{name: c, secret: {C}}}]}}}}",
        identity="{identity: {}}",
        new_provider=f"{{aesgcm: {{keys: [{{name: key-20261123, secret: {N}}}]}}}}",
        closing=" ]}}",
        key_gap=" ,",
        provider_gap=",\n    ",
        after=" ] # four\n",
    ),
    Style(
        name="lists in brackets, the keys in lines of their own, a comma at the end",
        before=f"{ENTRY[:-1]} [",
        opening="aescbc: {keys: [\n    ",
        a=f"{{ name: a, secret: {A} }}",
        b=f"{{ name: b, secret: {B} }}",
        new_key=f"{{name: key-20261123, secret: {N}}}",
        secretbox=f"secretbox: {{keys: [{{name: c, secret: {C}}}]}}",
        identity="identity: {}",
        new_provider=f"{{aesgcm: {{keys: [{{name: key-20261123, secret: {N}}}]}}}}",
        closing=",\n  ]}",
        key_gap=",\n    ",
        provider_gap=", ",
        after="]\n",
    ),
    Style(
        name="JSON on one line",
        before='{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", '
        '"resources": [{"resources": ["secrets"], "providers": [',
        opening='{"aescbc": {"keys": [',
        a=f'{{"name": "a", "secret": "{A}"}}',
        b=f'{{"name": "\\u0062", "secret": "{B}"}}',
        new_key=f'{{"name": "key-20261123", "secret": "{N}"}}',
        secretbox=f'{{"secretbox": {{"keys": [{{"name": "c", "secret": "{C}"}}]}}}}',
        identity='{"identity": {}}',
        new_provider=f'{{"aesgcm": {{"keys": [{{"name": "key-20261123", "secret": "{N}"}}]}}}}',
        closing="]}}",
        key_gap=", ",
        provider_gap=", ",
        after="]}]}",
    ),
    Style(
        name="JSON without blanks",
        before='{"apiVersion":"v1","kind":"EncryptionConfig","resources":[{"resources":["secrets"],"providers":[',
        opening='{"aescbc":{"keys":[',
        a=f'{{"name":"a","secret":"{A}"}}',
        b=f'{{"name":"b","secret":"{B}"}}',
        new_key=f'{{"name":"key-20261123","secret":"{N}"}}',
        secretbox=f'{{"secretbox":{{"keys":[{{"name":"c","secret":"{C}"}}]}}}}',
        identity='{"identity":{}}',
        new_provider=f'{{"aesgcm":{{"keys":[{{"name":"key-20261123","secret":"{N}"}}]}}}}',
        closing="]}}",
        key_gap=",",
        provider_gap=",",
        after="]}]}\n",
    ),
    Style(
        name="JSON over many lines",
        before='{\n\t"kind": "EncryptionConfig",\n\t"apiVersion": "v1",\n\t"resources": [{\n\t\t'
        '"resources": ["secrets"],\n\t\t"providers": [\n\t\t\t',
        opening='{"aescbc": {\n\t\t\t\t"keys": [\n\t\t\t\t\t',
        a=f'{{\n\t\t\t\t\t\t"name": "a",\n\t\t\t\t\t\t"secret": "{A}"\n\t\t\t\t\t}}',
        b=f'{{\n\t\t\t\t\t\t"name": "b",\n\t\t\t\t\t\t"secret": "{B}"\n\t\t\t\t\t}}',
        new_key=f'{{"name": "key-20261123", "secret": "{N}"}}',
        secretbox=f'{{\n\t\t\t\t"secretbox": {{"keys": [\n{{"name": "c", "secret": "{C}"}}]}}}}',
        identity='{\n\t\t\t\t"identity": {}\n\t\t\t}',
        new_provider=f'{{"aesgcm": {{"keys": [{{"name": "key-20261123", "secret": "{N}"}}]}}}}',
        closing="\n\t\t\t\t]\n\t\t\t}}",
        key_gap=",\n\t\t\t\t\t",
        provider_gap=",\n\t\t\t",
        after="\n\t\t]\n\t}]\n}\n",
    ),
]


def rows(style: Style) -> dict[str, tuple[Edit, bytes]]:
    """What each edit must give."""
    whole, a, b = style.aescbc(style.a, style.b), style.a, style.b
    secretbox, identity = style.secretbox, style.identity
    return {
        "a new key of the first provider's type is its second key": (
            lambda raw: add_read_key(raw, "f", [0], AESCBC, NEW),
            style.text(style.aescbc(a, style.new_key, b), secretbox, identity),
        ),
        "a new key of another type is a provider of its own, the second one": (
            lambda raw: add_read_key(raw, "f", [0], AESGCM, NEW),
            style.text(whole, style.new_provider, secretbox, identity),
        ),
        "the key that writes stays where it is": (
            lambda raw: promote(raw, "f", [0], AESCBC, "a"),
            style.whole,
        ),
        "another key of the first provider is promoted": (
            lambda raw: promote(raw, "f", [0], AESCBC, "b"),
            style.text(style.aescbc(b, a), secretbox, identity),
        ),
        "a key of another provider is promoted with its provider": (
            lambda raw: promote(raw, "f", [0], SECRETBOX, "c"),
            style.text(secretbox, whole, identity),
        ),
        "one key of several is dropped": (
            lambda raw: drop_key(raw, "f", [0], AESCBC, "b"),
            style.text(style.aescbc(a), secretbox, identity),
        ),
        "the first key of a provider that does not write is dropped": (
            lambda raw: drop_key(promote(raw, "f", [0], SECRETBOX, "c"), "f", [0], AESCBC, "a"),
            style.text(secretbox, style.aescbc(b), identity),
        ),
        "the last key of a provider is dropped with it": (
            lambda raw: drop_key(raw, "f", [0], SECRETBOX, "c"),
            style.text(whole, identity),
        ),
        "identity is dropped": (
            lambda raw: drop_identity(raw, "f", [0]),
            style.text(whole, secretbox),
        ),
    }


ROWS = [
    pytest.param(style, edit, expected, id=f"{style.name}: {sentence}")
    for style in [*BLOCK, *FLOW]
    for sentence, (edit, expected) in rows(style).items()
]
BLOCK_ROWS = [row for row in ROWS if row.values[0] in BLOCK]


@pytest.mark.parametrize(("style", "edit", "expected"), ROWS)
def test_edits_to_the_byte(style: Style, edit: Edit, expected: bytes) -> None:
    assert edit(style.whole).decode() == expected.decode()


@pytest.mark.parametrize(("style", "edit", "expected"), ROWS)
def test_line_endings_are_kept(style: Style, edit: Edit, expected: bytes) -> None:
    assert edit(style.whole.replace(b"\n", b"\r\n")) == expected.replace(b"\n", b"\r\n")


@pytest.mark.parametrize(("style", "edit", "expected"), BLOCK_ROWS)
def test_a_missing_line_break_at_the_end_stays_missing(style: Style, edit: Edit, expected: bytes) -> None:
    if b"|+" in style.whole.splitlines()[-1]:
        pytest.skip("the last line belongs to a block scalar")
    assert edit(style.whole.removesuffix(b"\n")) == expected.removesuffix(b"\n")


@pytest.mark.parametrize(("style", "edit", "expected"), BLOCK_ROWS)
def test_document_markers_and_a_byte_order_mark_are_kept(style: Style, edit: Edit, expected: bytes) -> None:
    front, back = b"\xef\xbb\xbf%YAML 1.1\n--- # one\n", b"# end\n... # no more\n\n# really\n"
    assert edit(front + style.whole + back) == front + expected + back


def test_blank_lines_stay_where_they_are() -> None:
    a = f"      - name: a\n        secret: {A}\n"
    b = f"      - name: b\n        secret: {B}\n"
    aesgcm = "  - aesgcm:\n      keys:\n\n"
    raw = f"{ENTRY}\n  - identity: {{}}\n\n{aesgcm}{a}\n      # not directly above\n\n{b}\n"
    expected = f"{ENTRY}\n{aesgcm}{b}{a}\n      # not directly above\n  - identity: {{}}\n\n\n\n"
    assert promote(raw.encode(), "f", [0], AESGCM, "b").decode() == expected


def test_a_new_block_is_indented_as_the_list_that_it_goes_into() -> None:
    for indent in ("", "  ", "    "):
        raw = f"{ENTRY}  {indent}- identity: {{}}"
        expected = (
            f"{raw}\n  {indent}- aesgcm:\n  {indent}    keys:\n  {indent}    {indent}- name: key-20261123\n"
            f"  {indent}    {indent}  secret: {N}"
        )
        assert add_read_key(raw.encode(), "f", [0], AESGCM, NEW).decode() == expected


def test_a_new_item_keeps_to_the_only_item_there_is() -> None:
    raw = f"{ENTRY[:-1]} [{{aesgcm: {{keys: [\n    {{name: a, secret: {A}}}]}}}}]\n"
    assert add_read_key(raw.encode(), "f", [0], AESGCM, NEW).decode() == raw.replace(
        f"{A}}}", f"{A}}},\n    {{name: key-20261123, secret: {N}}}"
    )
    assert add_read_key(raw.encode(), "f", [0], AESCBC, NEW).decode() == raw.replace(
        "]}}]", f"]}}}}, {{aescbc: {{keys: [{{name: key-20261123, secret: {N}}}]}}}}]"
    )
    braces = f"{ENTRY}  - {{identity: {{}}}}\n"
    block = f"  - {{aesgcm: {{keys: [{{name: key-20261123, secret: {N}}}]}}}}\n"
    assert add_read_key(braces.encode(), "f", [0], AESGCM, NEW).decode() == braces + block


def test_a_name_that_would_not_be_a_string_is_quoted() -> None:
    for name, written in {
        "1": '"1"',
        "yes": '"yes"',
        "a: b": '"a: b"',
        "-": '"-"',
        "ключ": '"ключ"',
        "b-1": "b-1",
    }.items():
        edited = add_read_key(INDENTED.whole, "f", [0], AESCBC, Key(name, NEW.secret))
        assert f"- name: {written}\n" in edited.decode()


# ------------------------------------------------------------------------------------------------------------- entries

TWO = (
    f"{ENTRY}  - aescbc: {{keys: [{{name: a, secret: {A}}}]}}\n"
    f"- resources: [configmaps, secrets]\n  providers:\n  - identity: {{}}\n- resources: ['*.apps']\n"
    f"  providers:\n  - aescbc: {{keys: [{{name: a, secret: {A}}}]}}\n"
)


def test_the_entries_that_name_a_resource() -> None:
    configuration = load(TWO.encode(), "f")
    assert entries_naming(configuration, [GroupResource("secrets")]) == (0, 1)
    assert entries_naming(configuration, [GroupResource("deployments", "apps")]) == ()
    assert entries_naming(configuration, [GroupResource("*", "apps"), GroupResource("configmaps")]) == (1, 2)


def test_several_entries_are_edited_alike_and_the_others_not_at_all() -> None:
    edited = add_read_key(TWO.encode(), "f", [1, 0], AESCBC, NEW)
    assert edited.decode() == TWO.replace(
        f"{A}}}]}}\n- resources: [conf", f"{A}}}, {{name: key-20261123, secret: {N}}}]}}\n- resources: [conf"
    ).replace(
        "  - identity: {}\n",
        f"  - identity: {{}}\n  - aescbc:\n      keys:\n      - name: key-20261123\n        secret: {N}\n",
    )
    first, second, third = load(promote(edited, "f", [0, 1], AESCBC, NEW.name), "f").entries
    assert [first.providers[0], second.providers[0]] == [
        KeyedProvider(AESCBC, (NEW, Key("a", SecretBytes(b"a" * 32)))), KeyedProvider(AESCBC, (NEW,)),
    ]  # fmt: skip
    assert third == load(TWO.encode(), "f").entries[2]


def test_an_edit_that_fails_in_one_entry_fails() -> None:
    assert refused(lambda: promote(TWO.encode(), "f", [0, 1], AESCBC, "a")) == (
        "resources[1].providers: no aescbc key there has this name; check name, provider and entry"
    )


@pytest.mark.parametrize("entries", [[], [3], [-1]])
def test_an_entry_that_is_not_there_is_a_bug_of_the_callers(entries: list[int]) -> None:
    with pytest.raises(ValueError, match="no such entry"):
        drop_identity(TWO.encode(), "f", entries)


# ------------------------------------------------------------------------------------------------------------ refusals


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


# ------------------------------------------------------------------------------------------------------------ new keys


@pytest.mark.parametrize(
    ("existing", "name"),
    [
        ([], "key-20261123"),
        (["key1", "key-20261122"], "key-20261123"),
        (["key-20261123"], "key-20261123-2"),
        (["key-20261123-3", "key-20261123", "key-20261123-2"], "key-20261123-4"),
        (["key-20261123:x"], "key-20261123-2"),
        (["key-20261123-2"], "key-20261123"),
    ],
)
def test_a_new_key_is_named_after_the_day(existing: list[str], name: str) -> None:
    assert new_key_name(existing, date(2026, 11, 23)) == name


def test_generated_keys_have_32_bytes_and_differ() -> None:
    one, other = generate_key("k"), generate_key("k")
    assert (one.name, len(one.secret)) == ("k", 32)
    assert one.secret != other.secret


# ------------------------------------------------------------------------------------------- kube-apiserver's own texts

ACCEPTED = [row for row in map(json.loads, GOLDEN.read_text().splitlines()) if row["ok"]]


def edits(raw: bytes) -> Iterator[tuple[Edit, bool]]:
    """Every edit of every entry, and whether it leaves the lines that it does not touch in their order."""
    for index, entry in enumerate(load(raw, "f").entries):
        for kind in (AESCBC, AESGCM, SECRETBOX):
            yield partial(add_read_key, file="f", entries=[index], provider_type=kind, key=NEW), True
        yield partial(drop_identity, file="f", entries=[index]), True
        for provider in entry.providers:
            for key in provider.keys if isinstance(provider, KeyedProvider) else ():
                kind, name = ProviderType(provider.type), key.name
                yield partial(promote, file="f", entries=[index], provider_type=kind, key_name=name), False
                yield partial(drop_key, file="f", entries=[index], provider_type=kind, key_name=name), True


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row["name"])
def test_an_accepted_text_is_edited_rightly_or_refused(row: dict[str, str]) -> None:
    raw = row["yaml"].encode()
    before = load(raw, "f")
    for edit, in_order in edits(raw):
        try:
            edited = edit(raw)
        except EditError:
            continue
        after = load(edited, "f")
        assert [entry.resources for entry in after.entries] == [entry.resources for entry in before.entries]
        lines, edited_lines = raw.splitlines(), edited.splitlines()
        if not in_order:
            assert sorted(lines) == sorted(edited_lines)
        elif len(lines) > 1:
            shorter, longer = sorted((lines, edited_lines), key=len)
            rest = iter(longer)
            assert all(line in rest for line in shorter)


def test_most_accepted_texts_take_a_new_key() -> None:
    def takes(raw: bytes) -> bool:
        try:
            return add_read_key(raw, "f", [0], AESGCM, NEW) != raw
        except EditError:
            return False

    assert [row["name"] for row in ACCEPTED if not takes(row["yaml"].encode())] == ["two documents", "yaml anchors"]
