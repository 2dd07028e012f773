"""kube-apiserver's own texts, edited rightly or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from kube_rewrap.config.editing.edit import (
    EditError,
    add_read_key,
    drop_identity,
    drop_key,
    promote,
)
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import KeyedProvider, ProviderType
from tests.unit.config.editing.styles import (
    AESCBC,
    AESGCM,
    GOLDEN,
    NEW,
    SECRETBOX,
    Edit,
)

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
