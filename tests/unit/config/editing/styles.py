"""One configuration in several styles of YAML, and each edit of it in each style."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kube_rewrap.config.editing.edit import (
    add_read_key,
    drop_identity,
    drop_key,
    promote,
)
from kube_rewrap.config.encryption.provider import Key, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes

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
TWO = (
    f"{ENTRY}  - aescbc: {{keys: [{{name: a, secret: {A}}}]}}\n"
    f"- resources: [configmaps, secrets]\n  providers:\n  - identity: {{}}\n- resources: ['*.apps']\n"
    f"  providers:\n  - aescbc: {{keys: [{{name: a, secret: {A}}}]}}\n"
)
