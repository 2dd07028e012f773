"""Each edit in each style, to the byte; several entries at once; names of new keys."""

from __future__ import annotations

from datetime import date

import pytest

from kube_rewrap.config.editing.edit import (
    add_read_key,
    drop_identity,
    entries_naming,
    new_key_name,
    promote,
)
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import Key, KeyedProvider
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.secret import SecretBytes
from tests.unit.config.editing.styles import (
    AESCBC,
    AESGCM,
    BLOCK_ROWS,
    ENTRY,
    INDENTED,
    NEW,
    ROWS,
    TWO,
    A,
    B,
    Edit,
    N,
    Style,
)


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


@pytest.mark.parametrize("entries", [[], [3], [-1]])
def test_an_entry_that_is_not_there_is_a_bug_of_the_callers(entries: list[int]) -> None:
    with pytest.raises(ValueError, match="no such entry"):
        drop_identity(TWO.encode(), "f", entries)


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
