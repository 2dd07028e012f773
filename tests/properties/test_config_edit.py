"""Any configuration in any style: an edit gives what a model of it gives, and touches no other line."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_rewrap.config.editing.edit import EditError, add_read_key, drop_identity, drop_key, promote
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, load
from kube_rewrap.config.encryption.provider import (
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.secret import SecretBytes

Model = list[tuple[ProviderType, list[Key]]]
"""The providers of one entry; KMS and identity without keys."""

KEYED = (ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX)
NEW = Key("key-20261123", SecretBytes(b"new" + bytes(29)))
KMS = {"apiVersion": "v2", "name": "k", "endpoint": "unix:///run/kms.sock"}

# ------------------------------------------------------------------------------------------------------ configurations

NAMES = st.sampled_from(["key1", "a", "a:b", "a/b c", "ключ", "1", "yes", "- x", "x #y", "key-20261122", "'", '"', "~"])
SECRETS = st.binary(min_size=32, max_size=32).map(SecretBytes)
KEYS = st.lists(st.builds(Key, NAMES, SECRETS), min_size=1, max_size=4, unique_by=lambda key: key.name)
MODELS: st.SearchStrategy[Model] = st.lists(
    st.tuples(st.sampled_from(KEYED), KEYS) | st.just((ProviderType.IDENTITY, [])), min_size=1, max_size=4
)
ENTRIES = st.lists(MODELS, min_size=1, max_size=3)

# -------------------------------------------------------------------------------------------------------------- styles

REMARKS = ["", "# plain", "# - name: commented out", "# 'quote", "#", "# keys: [", "#- aescbc: {", "# ключ --- ..."]


@dataclass
class Style:
    """Chooses how each part is written, by a seeded generator: drawing each blank would be slow."""

    random: Random
    steps: tuple[int, int, int]
    """Columns between a name and its mapping, a name and its list, a dash and its item."""
    flow_from: int
    """Depth below which everything stands in brackets and braces."""
    remarks: bool

    def choice(self, *options: str) -> str:
        return self.random.choice(options)

    def remark(self, column: int) -> list[str]:
        """Comment and blank lines above an item or a field."""
        if not self.remarks:
            return []
        lines = self.random.choices(REMARKS, k=self.random.randint(0, 2))
        at = self.random.choice([column, column, 0, column + 3])
        return [" " * at + line if line else "" for line in lines]

    def trailing(self) -> str:
        return self.choice("", "", "  # why", " ") if self.remarks else ""

    def scalar(self, value: str) -> str:
        quoted = json.dumps(value, ensure_ascii=False)
        single = "'" + value.replace("'", "''") + "'"
        safe = (
            value.replace("-", "").replace("/", "").replace("=", "").replace("+", "").isalnum() and value[0].isalpha()
        )
        return self.choice(quoted, single, value) if safe and value != "yes" else self.choice(quoted, single)

    def flow(self, value: object) -> str:
        blank = self.choice("", " ")
        match value:
            case dict():
                parts = [f"{name}: {self.flow(inner)}" for name, inner in value.items()]
                return "{" + blank + f"{blank}, ".join(parts) + blank + "}"
            case list():
                parts = [self.flow(inner) for inner in value]
                return "[" + blank + f"{blank}, ".join(parts) + blank + self.choice("", ",") + "]"
            case _:
                return self.scalar(str(value))

    def block(self, value: object, column: int, depth: int = 0) -> list[str]:
        """Lines of a mapping or a list that starts in `column`."""
        lines: list[str] = []
        if isinstance(value, dict):
            for name, inner in value.items():
                lines += self.remark(column) if depth else []
                lines += self.field(" " * column + f"{name}:", inner, column, depth + 1)
        if isinstance(value, list):
            for inner in value:
                lines += self.remark(column)
                gap = self.steps[2]
                if not isinstance(inner, dict) or depth >= self.flow_from:
                    lines.append(" " * column + "-" + " " * gap + self.flow(inner) + self.trailing())
                    continue
                body = self.block(inner, column + 1 + gap, depth + 1)
                while not body[0].strip() or body[0].lstrip().startswith("#"):
                    body.pop(0)
                lines += [" " * column + "-" + body[0][column + 1 :], *body[1:]]
        return lines

    def field(self, name: str, value: object, column: int, depth: int) -> list[str]:
        empty = not value
        if isinstance(value, dict | list) and not empty and depth < self.flow_from:
            column += self.steps[0] if isinstance(value, dict) else self.steps[1]
            return [name + self.trailing(), *self.block(value, column, depth)]
        return [f"{name} {self.flow(value)}{self.trailing()}"]


def document(entries: list[Model]) -> dict[str, object]:
    def written(key: Key) -> dict[str, str]:
        return {"name": key.name, "secret": base64.b64encode(key.secret.reveal()).decode()}

    def provider(kind: ProviderType, keys: list[Key]) -> dict[str, object]:
        return {str(kind): {"keys": [written(key) for key in keys]} if keys else {}}

    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {
                "resources": [f"things{index}.example.com", "secrets"],
                "providers": [*(provider(*item) for item in model), {"kms": {**KMS, "name": f"k{index}"}}],
            }
            for index, model in enumerate(entries)
        ],
    }


@st.composite
def texts(draw: st.DrawFn, entries: st.SearchStrategy[list[Model]] = ENTRIES) -> tuple[list[Model], bytes]:
    models = draw(entries)
    shape = draw(st.sampled_from(["block", "block", "block", "mixed", "flow", "json", "json lines"]))
    if shape.startswith("json"):
        indent: str | None = draw(st.sampled_from([" ", "    ", "\t"])) if shape == "json lines" else None
        return models, json.dumps(document(models), indent=indent, ensure_ascii=draw(st.booleans())).encode()
    flow_from = {"block": 99, "mixed": draw(st.integers(2, 7)), "flow": 1}[shape]
    steps = draw(st.tuples(st.integers(1, 4), st.sampled_from([0, 0, 2, 4]), st.integers(1, 3)))
    style = Style(Random(draw(st.integers(0, 2**32))), steps, flow_from, draw(st.booleans()))
    lines = style.block(document(models), 0)
    lines = [*draw(st.sampled_from([[], ["---"], ["# x", "--- # y"], ["%YAML 1.1", "---"]])), *lines]
    lines += draw(st.sampled_from([[], [""], ["# end"], ["..."], ["... # end", "", "# really"]]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = draw(st.sampled_from(["", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end]))
    return models, text.encode()


def parsed(raw: bytes) -> list[Model]:
    """What a text means, as a model, the KMS provider at the end of each entry left out where it stands."""
    return [modelled(entry.providers) for entry in configuration(raw).entries]


def configuration(raw: bytes) -> EncryptionConfiguration:
    loaded = load(raw, "f")
    for index, entry in enumerate(loaded.entries):
        assert entry.resources == (f"things{index}.example.com", "secrets")
        assert KmsProvider("v2", f"k{index}", "unix:///run/kms.sock", 3.0, None) in entry.providers
    return loaded


def modelled(providers: tuple[Provider, ...]) -> Model:
    found: Model = []
    for provider in providers:
        match provider:
            case KeyedProvider():
                found.append((ProviderType(provider.type), list(provider.keys)))
            case IdentityProvider():
                found.append((ProviderType.IDENTITY, []))
            case KmsProvider():
                assert provider is providers[-1]
    return found


# --------------------------------------------------------------------------------------------------------------- edits


def lines_of(raw: bytes) -> Counter[bytes]:
    """The lines without their ends: an item that leaves the end of a file gets one, and the other way round."""
    return Counter(raw.rstrip(b"\r\n").replace(b"\r\n", b"\n").split(b"\n"))


def run(edit: Callable[[], bytes], wanted: list[Model] | None) -> bytes | None:
    """Return the edited text, which means what is wanted; None after a refusal, which must be wanted then."""
    if wanted is None:
        with pytest.raises(EditError):
            edit()
        return None
    edited = edit()
    assert parsed(edited) == wanted
    return edited


def assert_one_place(shorter: bytes, longer: bytes) -> None:
    """All of one text stands in the other, around one place."""
    assert common(shorter, longer) + common(shorter[::-1], longer[::-1]) >= len(shorter)


def common(one: bytes, other: bytes) -> int:
    return len(list(takewhile(bool, map(eq, one, other))))


def changed(models: list[Model], at: int, model: Model) -> list[Model]:
    return [*models[:at], model, *models[at + 1 :]]


def positions(model: Model, kind: ProviderType, name: str) -> list[tuple[int, int]]:
    return [
        (place, index)
        for place, (found, keys) in enumerate(model)
        if found is kind
        for index, key in enumerate(keys)
        if key.name == name
    ]


slow = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(texts())
def test_the_texts_mean_their_models(case: tuple[list[Model], bytes]) -> None:
    models, raw = case
    assert parsed(raw) == models


@slow
@given(texts(), st.data(), st.sampled_from(KEYED))
def test_adding_a_key(case: tuple[list[Model], bytes], data: st.DataObject, kind: ProviderType) -> None:
    models, raw = case
    at = data.draw(st.integers(0, len(models) - 1))
    (first, keys), *others = models[at]
    if first is kind:
        wanted: Model = [(kind, [keys[0], NEW, *keys[1:]]), *others]
    else:
        wanted = [(first, keys), (kind, [NEW]), *others]
    edited = run(lambda: add_read_key(raw, "f", [at], kind, NEW), changed(models, at, wanted))
    assert edited is not None
    assert_one_place(raw, edited)
    assert edited.count(b"\r\n") - raw.count(b"\r\n") == (edited.count(b"\n") - raw.count(b"\n")) * (b"\r\n" in raw)


@slow
@given(texts(), st.data())
def test_promoting_a_key(case: tuple[list[Model], bytes], data: st.DataObject) -> None:
    models, raw = case
    at = data.draw(st.integers(0, len(models) - 1))
    model = models[at]
    kind, keys = data.draw(st.sampled_from(model))
    name = data.draw(st.sampled_from([key.name for key in keys] or ["none"]))
    found = positions(model, kind, name)
    wanted = None
    if len(found) == 1:
        ((place, index),) = found
        front = (kind, [keys[index], *keys[:index], *keys[index + 1 :]])
        wanted = changed(models, at, [front, *model[:place], *model[place + 1 :]])
    edited = run(lambda: promote(raw, "f", [at], kind, name), wanted)
    if edited is None:
        return
    assert Counter(edited.translate(None, b"\r\n")) == Counter(raw.translate(None, b"\r\n"))
    assert edited.endswith(b"\n") is raw.endswith(b"\n")
    if b"[" not in raw.replace(b"# keys: [", b""):
        assert lines_of(edited) == lines_of(raw)


@slow
@given(texts(), st.data())
def test_dropping_a_key(case: tuple[list[Model], bytes], data: st.DataObject) -> None:
    models, raw = case
    at = data.draw(st.integers(0, len(models) - 1))
    model = models[at]
    kind, keys = data.draw(st.sampled_from(model))
    name = data.draw(st.sampled_from([key.name for key in keys] or ["none"]))
    found = positions(model, kind, name)
    wanted = None
    if len(found) == 1 and found != [(0, 0)]:
        ((place, index),) = found
        left = [(kind, [*keys[:index], *keys[index + 1 :]])] if len(keys) > 1 else []
        wanted = changed(models, at, [*model[:place], *left, *model[place + 1 :]])
    edited = run(lambda: drop_key(raw, "f", [at], kind, name), wanted)
    if edited is not None:
        assert_one_place(edited, raw)


@slow
@given(texts(), st.data())
def test_dropping_identity(case: tuple[list[Model], bytes], data: st.DataObject) -> None:
    models, raw = case
    at = data.draw(st.integers(0, len(models) - 1))
    model = models[at]
    kept = [item for item in model if item[0] is not ProviderType.IDENTITY]
    possible = len(kept) < len(model) and model[0] in kept
    edited = run(lambda: drop_identity(raw, "f", [at]), changed(models, at, kept) if possible else None)
    if edited is not None and len(model) - len(kept) == 1:
        assert_one_place(edited, raw)


@settings(slow, max_examples=25)
@given(texts(), st.sampled_from(KEYED))
def test_a_whole_rotation(case: tuple[list[Model], bytes], kind: ProviderType) -> None:
    """In every entry: the new key is read, then writes, and at last is the only one but for the KMS provider."""
    models, raw = case
    every = range(len(models))
    raw = promote(add_read_key(raw, "f", every, kind, NEW), "f", every, kind, NEW.name)
    assert [model[0][1][0] for model in parsed(raw)] == [NEW] * len(models)
    for at in every:
        if ProviderType.IDENTITY in [found for found, _ in parsed(raw)[at]]:
            raw = drop_identity(raw, "f", [at])
        for found, keys in reversed(parsed(raw)[at]):
            for key in keys:
                if key != NEW and len(positions(parsed(raw)[at], found, key.name)) == 1:
                    raw = drop_key(raw, "f", [at], found, key.name)
        names = Counter((found, key.name) for found, keys in parsed(raw)[at] for key in keys)
        assert all(count > 1 for one, count in names.items() if one != (kind, NEW.name))
