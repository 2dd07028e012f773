"""What is large or strange in a configuration file is read, or refused, in a time that grows with its size.

Each of these took minutes, or would not have ended, with a parser that goes back over what it has seen; the time-out
leaves those that don't a hundredfold of what they need.
"""

from __future__ import annotations

import pytest

from kube_rewrap.config.editing.pieces import Unsafe, find
from kube_rewrap.config.encryption.source import MAX_BYTES
from kube_rewrap.config.errors import DocumentError
from kube_rewrap.config.parsing.document import parse
from kube_rewrap.config.parsing.golang import parse_duration

pytestmark = pytest.mark.timeout(30)


def test_a_json_string_of_quotes_that_does_not_end_is_refused() -> None:
    with pytest.raises(DocumentError, match="Unterminated string"):
        parse(b'{"a": "' + b'\\"' * (MAX_BYTES // 2), "file")


def test_brackets_in_a_json_string_do_not_nest() -> None:
    [field] = parse(b'{"a": "' + b'[{\\"' * 1_000 + b'"}', "file").fields
    assert field.value.text == '[{"' * 1_000


def test_a_duration_of_a_great_many_parts_is_read() -> None:
    assert parse_duration("1h" * 200_000) == 3_600_000_000_000 * 200_000


def test_a_plain_scalar_as_large_as_a_file_may_be_is_read() -> None:
    [field] = parse(b"a: " + b"x " * (MAX_BYTES // 2), "file").fields
    assert len(field.value.text) == MAX_BYTES - 1


def test_a_file_of_tag_directives_is_refused() -> None:
    directives = "".join(f"%TAG !{number}! b\n" for number in range(MAX_BYTES // 16))
    with pytest.raises(DocumentError, match="more than 100 %TAG directives"):
        parse(f"{directives}---\na: 1\n".encode(), "file")


def test_blank_lines_from_windows_in_front_of_something_else_are_refused() -> None:
    with pytest.raises(Unsafe, match="text follows"):
        find("a: [1]\r\n" + "\r\n" * 2_000 + "--- b\r\n", ("a",))
