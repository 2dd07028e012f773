"""Tables on a terminal that is too narrow for them."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.output import print_items, print_sentence, print_table

HEADS = ("STATE", "CHECK", "REASON")
ROWS = [("fail", "key-age", "the key writes for 120 days, which is longer than the 90 days that are allowed")]


def shown(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, tty: bool = True
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty)
    print_table(HEADS, ROWS)
    return capsys.readouterr().out


def test_the_last_column_wraps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(60, capsys, monkeypatch)
    assert max(map(len, out.splitlines())) <= 60
    assert " ".join(out.split()) == "STATE CHECK REASON " + " ".join(ROWS[0])


def test_a_row_is_a_block_where_that_does_not_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(30, capsys, monkeypatch).splitlines() == [
        "STATE   fail",
        "CHECK   key-age",
        "REASON  the key writes for 120",
        "        days, which is longer",
        "        than the 90 days that",
        "        are allowed",
    ]


def test_sentences_wrap_between_words_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    item = f"kube-apiserver: set --quota-bytes; see {'f' * 40}"
    for tty in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda tty=tty: tty)
        print_items([item])
        print_sentence(item)
    assert capsys.readouterr().out.splitlines() == [
        "  kube-apiserver: set",
        "    --quota-bytes; see",
        f"    {'f' * 40}",
        "kube-apiserver: set",
        "--quota-bytes; see",
        "f" * 40,
        f"  {item}",
        item,
    ]


def test_rows_with_the_same_first_cell_are_a_group_where_that_does_not_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    rows = [("configmaps", "aescbc", "key1", 10), ("configmaps", "identity", "", 2), ("secrets", "aescbc", "key1", 1)]
    print_table(("RESOURCE", "PROVIDER", "KEY", "OBJECTS"), rows)
    assert capsys.readouterr().out.splitlines() == [
        "RESOURCE",
        "  PROVIDER  KEY   OBJECTS",
        "configmaps",
        "  aescbc    key1       10",
        "  identity              2",
        "secrets",
        "  aescbc    key1        1",
    ]


def test_a_file_or_pipe_has_no_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(shown(30, capsys, monkeypatch, tty=False).splitlines()) == 2
