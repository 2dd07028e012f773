"""Bytes → tree: YAML by goyaml.v2's rules, JSON by Go's, and errors that hold nothing of the text."""

from __future__ import annotations

import importlib
import sys
import traceback

import pytest
import yaml

from kube_rewrap.config.errors import DocumentError, SettingsError
from kube_rewrap.config.parsing.document import parse
from kube_rewrap.config.parsing.json_text import MAX_DEPTH as JSON_DEPTH
from kube_rewrap.config.parsing.node import Node, NodeKind
from kube_rewrap.config.parsing.yaml_text import MAX_DEPTH, MAX_NODES

Plain = dict[str, object] | list[object] | tuple[str, str]


def plain(node: Node) -> object:
    """A node as plain values: scalars as (kind, text)."""
    if node.kind is NodeKind.MAPPING:
        return [(field.name, plain(field.value)) for field in node.fields]
    if node.kind is NodeKind.SEQUENCE:
        return [plain(item) for item in node.items]
    return node.kind.name, node.text


def read(text: str) -> object:
    return plain(parse(text.encode(), "f"))


def refused(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(DocumentError) as caught:
        parse(raw, "f")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    (fault,) = caught.value.faults
    return f"{fault.line}: {fault.message}"


BOOLEANS = {
    "true": "y Y yes Yes YES true True TRUE on On ON",
    "false": "n N no No NO false False FALSE off Off OFF",
}


@pytest.mark.parametrize(
    ("value", "word"), [(value, word) for value, words in BOOLEANS.items() for word in words.split()]
)
def test_yaml_1_1_words_are_booleans(value: str, word: str) -> None:
    assert read(f"- {word}\n- '{word}'\n") == [("BOOL", value), ("STRING", word)]


@pytest.mark.parametrize("word", ["", "~", "null", "Null", "NULL"])
def test_null_words(word: str) -> None:
    assert read(f"- {word}\n") == [("NULL", "")]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", "1"), ("-1", "-1"), ("+1", "1"), ("0", "0"), ("010", "8"), ("0o10", "8"), ("0O10", "8"), ("-010", "-8"),
        ("0x1F", "31"), ("0X1f", "31"), ("0b11", "3"), ("-0b11", "-3"), ("1_000", "1000"), ("0x_f", "15"), ("1__", "1"),
        ("9223372036854775808", "9223372036854775808"), ("99999999999999999999", str(2**64)), ("9" * 5000, str(2**64)),
    ],
)  # fmt: skip
def test_integers(text: str, number: str) -> None:
    assert read(f"- {text}\n") == [("INT", number)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.5", "1.5"), ("1e3", "1000"), ("1E3", "1000"), ("1.", "1"), (".5", "0.5"), ("-.5", "-0.5"), ("+1.0", "1"),
        ("08", "8"), ("1_0.5", "10.5"), ("-0.0", "-0"), ("1e21", "1e+21"), ("1e-7", "1e-07"), ("0.25", "0.25"),
    ],
)  # fmt: skip
def test_floats_are_written_as_go_writes_them(text: str, number: str) -> None:
    assert read(f"- {text}\n") == [("FLOAT", number)]


@pytest.mark.parametrize(
    "text",
    [
        "2001-01-01",
        "2001-12-14T21:59:43.10Z",
        "12:30:45",
        "1.2.3",
        "0x",
        "0b2",
        "1e",
        "e3",
        ".",
        "+",
        "--1",
        ".5_0",
        "1e999",
        "yEs",
        "nULL",
        "oN",
        "_1",
        "0o8",
        "١",
    ],
)
def test_what_looks_special_and_is_a_string(text: str) -> None:
    assert read(f"- {text}\n") == [("STRING", text)]


@pytest.mark.parametrize("text", ["1", "yes", "~", "", "1e3", ".inf", "<<"])
def test_a_quoted_scalar_is_a_string(text: str) -> None:
    assert read(f"- '{text}'\n- \"{text}\"\n") == [("STRING", text)] * 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!str 1", ("STRING", "1")),
        ("!!str", ("STRING", "")),
        ('!!int "5"', ("INT", "5")),
        ("!!float 5", ("FLOAT", "5")),
        ('!!bool "yes"', ("BOOL", "true")),
        ('!!null ""', ("NULL", "")),
        ("!!binary aGk=", ("STRING", "hi")),
        ("!!binary /w==", ("STRING", "\ufffd")),
        ("!!timestamp 2001-01-01", ("STRING", "2001-01-01")),
        ("!mine 1", ("STRING", "1")),
        ("!!mine 1", ("STRING", "1")),
        ('! "1"', ("INT", "1")),
        ("!<tag:yaml.org,2002:int> 1", ("INT", "1")),
    ],
)
def test_explicit_tags(text: str, value: object) -> None:
    assert read(f"- {text}\n") == [value]


@pytest.mark.parametrize(
    "text", ["!!int x", "!!bool 1", "!!float x", "!!null 0", "!!timestamp x", "!!binary '@'", "!!int ''", "!!int 1.5"]
)
def test_a_tag_that_does_not_fit_is_refused(text: str) -> None:
    assert refused(f"a: 1\nb: {text}\n") == "2: a value does not fit its explicit tag"


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "+.INF", "!!float .nan"])
def test_numbers_that_json_has_not_are_refused(text: str) -> None:
    assert refused(f"- {text}\n") == "1: a number is infinite or not a number, which JSON can't express"


def test_duplicate_fields_stay_in_the_tree() -> None:
    root = parse(b"a: 1\nb: 2\na: 3\n", "f")
    assert [(field.name, field.line) for field in root.fields] == [("a", 1), ("b", 2), ("a", 3)]


def test_other_keys_than_strings_become_strings_as_in_json() -> None:
    assert read("1: a\nyes: b\n1.50: c\n") == [
        ("1", ("STRING", "a")),
        ("true", ("STRING", "b")),
        ("1.5", ("STRING", "c")),
    ]


@pytest.mark.parametrize(("text", "kind"), [("~: a", "null"), ("? [a]\n: b", "a list"), ("? {a: b}\n: c", "a mapping")])
def test_keys_that_json_can_not_have_are_refused(text: str, kind: str) -> None:
    assert refused(text) == f"1: a field name is {kind}, not a string"


def test_anchors_and_aliases_share_a_value() -> None:
    assert read("a: &x {b: 1}\nc: *x\n") == [("a", [("b", ("INT", "1"))]), ("c", [("b", ("INT", "1"))])]


def test_an_anchor_may_be_defined_again() -> None:
    assert read("- &x 1\n- *x\n- &x 2\n- *x\n") == [("INT", "1"), ("INT", "1"), ("INT", "2"), ("INT", "2")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *x\n", "1: an alias refers to an anchor that is not defined before it"),
        ("a: &x [*x]\n", "1: an anchor contains itself"),
        ("a: &x\n  b: *x\n", "2: an anchor contains itself"),
    ],
)
def test_aliases_without_an_end_are_refused(text: str, message: str) -> None:
    assert refused(text) == message


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
    assert refused("\n".join(lines)).endswith(f"it has more than {MAX_NODES} values, aliases expanded")


def test_deep_nesting_is_refused() -> None:
    assert refused("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)).endswith(
        f"it is nested deeper than {MAX_DEPTH} levels"
    )
    assert refused("[" * 100_000).endswith(f"it is nested deeper than {MAX_DEPTH} levels")
    assert refused('{"a":' * 100_000).endswith(f"it is nested deeper than {JSON_DEPTH} levels")


MERGED = "base: &b {x: 1, w: 2}\n"


def test_a_merge_key_brings_the_fields_in() -> None:
    assert read(MERGED + "c:\n  <<: *b\n  z: 3\n") == [
        ("base", [("x", ("INT", "1")), ("w", ("INT", "2"))]),
        ("c", [("x", ("INT", "1")), ("w", ("INT", "2")), ("z", ("INT", "3"))]),
    ]


def test_a_merged_field_that_is_set_again_stays_twice() -> None:
    root = parse((MERGED + "c:\n  <<: *b\n  x: 3\n").encode(), "f")
    assert [field.name for field in root.fields[1].value.fields] == ["x", "w", "x"]


def test_a_list_of_merges_is_applied_from_its_end() -> None:
    assert read("<<: [{a: 1}, {b: 2}]\n") == [("b", ("INT", "2")), ("a", ("INT", "1"))]


def test_a_quoted_merge_key_is_an_ordinary_name() -> None:
    assert read("'<<': {a: 1}\n") == [("<<", [("a", ("INT", "1"))])]


def test_a_merge_of_something_else_is_refused() -> None:
    assert refused("<<: 1\n") == "1: a merge key (<<) takes a mapping or a list of mappings"
    assert refused("<<: [{}, 1]\n") == "1: a merge key (<<) takes a mapping or a list of mappings"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\n---\nb: [\n", [("a", ("INT", "1"))]),
        ("---\na: 1\n...\n%%% garbage", [("a", ("INT", "1"))]),
        ("# only a comment\n", ("NULL", "")),
        ("---\n---\na: 1\n", ("NULL", "")),
        ("%YAML 1.1\n---\na: 1\n", [("a", ("INT", "1"))]),
    ],
)
def test_only_the_first_document_counts(text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("version", "message"),
    [("1.2", "the %YAML directive names another version than 1.1"), ("1.0", "found incompatible YAML document")],
)
def test_another_yaml_version_is_refused(version: str, message: str) -> None:
    assert refused(f"%YAML {version}\n---\na: 1\n") == f"1: {message}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\t1\n", [("a", ("INT", "1"))]),
        ("a: 1\t# comment\n", [("a", ("INT", "1"))]),
        ("a: x\ty\n", [("a", ("STRING", "x\ty"))]),
        ("a: [x,\tz]\n", [("a", [("STRING", "x"), ("STRING", "z")])]),
        ("a: x\n \ty\n", [("a", ("STRING", "x y"))]),
    ],
)
def test_tabs_between_tokens_are_blanks(text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\t- b\n", "2: while scanning for the next token, found character that cannot start any token"),
        ("a: x\n\ty\n", "2: while scanning a plain scalar, found a tab character that violates indentation"),
    ],
)
def test_tabs_that_indent_are_refused(text: str, message: str) -> None:
    assert refused(text) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("- a\n  b\n\n  c\n", [("STRING", "a b\nc")]),
        ("- [a:b]\n", [[("STRING", "a:b")]]),
        ("- [http://x/y, z]\n", [[("STRING", "http://x/y"), ("STRING", "z")]]),
        ("a: b#c # d\n", [("a", ("STRING", "b#c"))]),
        ("a\n---\nb\n", ("STRING", "a")),
        ("- {'a':1}\n", [[("a", ("INT", "1"))]]),
    ],
)
def test_plain_scalars_end_where_they_end_in_libyaml(text: str, value: object) -> None:
    assert read(text) == value


def test_a_flow_key_needs_a_blank_behind_its_colon() -> None:
    assert refused("- {identity:{}}\n").startswith("1: ")


@pytest.mark.parametrize("text", ["[a?b]", "{a?: 1}", "[b, a ?]", "- {a: [[], b?]}"])
def test_a_question_mark_in_brackets_needs_quotes(text: str) -> None:
    message = "1: a value in brackets or braces holds a question mark and no quotes"
    assert refused(text if text[0] != "{" else f"- {text}") == message


def test_a_question_mark_elsewhere_is_a_character() -> None:
    assert read("- a?b\n- ['c?', [], \"?\"]\n- d?\n") == [
        ("STRING", "a?b"),
        [("STRING", "c?"), [], ("STRING", "?")],
        ("STRING", "d?"),
    ]


@pytest.mark.parametrize(
    "mark_and_encoding",
    [("utf-8-sig", b""), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")],
    ids=lambda pair: str(pair[0]),
)
def test_a_byte_order_mark_is_accepted(mark_and_encoding: tuple[str, bytes]) -> None:
    encoding, mark = mark_and_encoding
    assert plain(parse(mark + "a: é\n".encode(encoding), "f")) == [("a", ("STRING", "é"))]


def test_a_brace_behind_a_byte_order_mark_is_yaml() -> None:
    assert plain(parse(b"\xef\xbb\xbf{a: 1}", "f")) == [("a", ("INT", "1"))]


BAD_ESCAPE = "while parsing a quoted scalar, found invalid Unicode character escape code"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "None: the file is empty"),
        (b"a: 1\nb: \xff\n", "2: its text is not UTF-8"),
        (b"\xff\xfea", "None: its text is not UTF-16-LE"),
        (b"a: \x00\n", "1: it holds the character U+0000, which YAML does not allow"),
        (b"\n\na: \x07\n", "3: it holds the character U+0007, which YAML does not allow"),
        ("a: x\ufeff\n".encode(), "1: it holds the character U+FEFF, which YAML does not allow"),
        (b'a: "\\ud800"\n', f"1: {BAD_ESCAPE}"),
        (b'a: "\\UFFFFFFFF"\n', f"1: {BAD_ESCAPE}"),
        (
            b"%YAML " + b"1" * 5000 + b".1\n---\n",
            "1: while scanning a %YAML directive, found extremely long version number",
        ),
    ],
)
def test_text_that_is_none_is_refused(raw: bytes, message: str) -> None:
    assert refused(raw) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            '{"a": [1, -2.50, true, false, null, "x"]}',
            [
                (
                    "a",
                    [
                        ("INT", "1"),
                        ("FLOAT", "-2.50"),
                        ("BOOL", "true"),
                        ("BOOL", "false"),
                        ("NULL", ""),
                        ("STRING", "x"),
                    ],
                )
            ],
        ),
        ('\n\t {"a":\t{}}\n', [("a", [])]),
        ('{"a": 1, "a": 2}', [("a", ("INT", "1")), ("a", ("INT", "2"))]),
        ('{"a": "\\ud83d\\ude00\\ud800"}', [("a", ("STRING", "😀\ufffd"))]),
        ('{"yes": "yes", "a": "' + "[" * 500 + '"}', [("yes", ("STRING", "yes")), ("a", ("STRING", "[" * 500))]),
        ('{"a": ' + "9" * 5000 + "}", [("a", ("INT", "9" * 5000))]),
    ],
    ids=["every type", "tabs", "duplicates", "surrogates", "brackets in a string", "long number"],
)
def test_json(text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{a: 1}",
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": 1} x',
        '{"a": 1}\n---\n{}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 01}',
        '{"a": "\t"}',
        '{"a": 1 /* c */}',
        "{{{{",
    ],
)
def test_what_starts_as_json_must_be_json(text: str) -> None:
    assert refused(text)


CANARY = "CanaryCanaryCanaryCanary"


@pytest.mark.parametrize(
    "text",
    [
        f"a: {CANARY}\n- b\n",
        f"a: '{CANARY}\n",
        f"a: !{CANARY}! x\n",
        f"a: *{CANARY}\n",
        f"%TAG !{CANARY}! x\n%TAG !{CANARY}! x\n---\n",
        f"a: @{CANARY}\n",
        f"a: !!int {CANARY}\n",
        f"a: !!binary {CANARY}@\n",
        f"? [{CANARY}]\n: x\n",
        f'{{"a": "{CANARY}", b}}',
        f'{{"a": {CANARY}}}',
        f'{{"{CANARY}": NaN}}',
        f"{CANARY}: \x00",
        f'"{CANARY}\\q"',
        f"a: !<{CANARY} x",
        f"a: |{CANARY}\n",
        f"a: !%ff{CANARY} x\n",
    ],
)
def test_no_error_quotes_the_document(text: str) -> None:
    for raw in (text.encode(), text.encode() + b"\xff"):
        with pytest.raises(DocumentError) as caught:
            parse(raw, "f")
        assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert caught.value.__context__ is None


def test_a_pyyaml_without_libyaml_is_refused_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "kube_rewrap.config.parsing.yaml_events"
    monkeypatch.delattr(yaml, "CBaseLoader")
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SettingsError, match="PyYAML: was built without libyaml; install one of its wheels"):
        importlib.import_module(module)


def test_the_repr_of_the_tree_masks_names_and_values() -> None:
    root = parse(f"{CANARY}: {CANARY}\n".encode(), "f")
    assert repr(root) == "Node(MAPPING, line=1)"
    assert repr(root.fields[0]) == "Field(line=1, value=Node(STRING, line=1))"
