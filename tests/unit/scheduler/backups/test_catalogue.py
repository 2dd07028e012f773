"""The catalogue is read tolerantly: what can't be read is counted and shown, and costs itself alone."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.scheduler.backups.catalogue import Catalogue, forget_line, line_of, newest, read_lines
from kube_rewrap.scheduler.backups.figures import figures_of
from kube_rewrap.scheduler.metrics import BackupFigures
from kube_rewrap.worker.verdict import KeyRef
from tests.unit.scheduler.backups.backups import DAY, KEK, NEW, NOW, OLD, backup

OTHER = KeyRef("aesgcm", "zz", "00000000000000bb")
FIRST, SECOND = backup(1), backup(2, keys=(OLD, KEK), expires=NOW + DAY, where="tape 7 — Köln")


def lines(*given: bytes) -> bytes:
    return b"".join(one + b"\n" for one in given)


def test_what_is_written_is_read() -> None:
    assert read_lines(lines(line_of(FIRST), line_of(SECOND))).backups == (FIRST, SECOND)


def test_a_later_line_replaces_one_of_the_same_digest() -> None:
    other = backup(1, expires=NOW)
    assert read_lines(lines(line_of(FIRST), line_of(SECOND), line_of(other))).backups == (SECOND, other)


def test_what_is_added_again_still_needs_the_keys_that_it_needed() -> None:
    before = backup(1, keys=(OLD, NEW), history_keys=(KEK,), readable=True)
    again = backup(1, keys=(NEW,), history_keys=(OTHER,), readable=False, revision=99)
    [found] = read_lines(lines(line_of(before), line_of(again), line_of(again))).backups
    assert (found.keys, found.history_keys) == ((OLD, NEW), (OTHER, KEK))
    assert (found.readable, found.revision) == (False, 99)
    [found] = read_lines(lines(line_of(backup(1, history_keys=(OLD,))), line_of(backup(1, keys=(OLD,))))).backups
    assert (found.keys, found.history_keys) == ((OLD, NEW), ())


def test_a_backup_expires_with_its_last_copy() -> None:
    here, there = backup(1, expires=NOW + 9 * DAY), backup(1, file="/other/1.db", expires=NOW + DAY)
    [found] = read_lines(lines(line_of(here), line_of(there))).backups
    assert (found.file, found.expires) == ("/other/1.db", here.expires)
    [found] = read_lines(lines(line_of(there), line_of(here), line_of(backup(1, expires=NOW)))).backups
    assert (found.file, found.expires) == (here.file, there.expires)
    [found] = read_lines(lines(line_of(here), line_of(backup(1, file="/other/1.db")))).backups
    assert found.expires is None


def test_a_file_that_was_proven_below_two_prefixes_is_two_backups() -> None:
    other = backup(1, prefix="/kubernetes.io/", keys=(), readable=False)
    found = read_lines(lines(line_of(backup(1, prefix="/registry/", keys=(OLD,))), line_of(other)))
    assert [(one.prefix, one.keys, one.readable) for one in found.backups] == [
        ("/registry/", (OLD,), True),
        ("/kubernetes.io/", (), False),
    ]
    assert found.digest_of(other.digest) == other.digest
    ended = read_lines(lines(line_of(FIRST), line_of(other), forget_line(other.digest, NOW)))
    assert (ended.backups, ended.copies, ended.forgotten) == ((), (), 1)


def test_a_line_of_before_prefixes_were_noted_is_read() -> None:
    value = {"version": 1, "line": "backup", **FIRST.to_json()}
    del value["prefix"]
    assert read_lines(json.dumps(value).encode()).backups == (FIRST,)


def test_a_large_catalogue_of_one_content_is_read_in_linear_time() -> None:
    began = time.process_time()
    found = read_lines(lines(*(line_of(backup(1, file=f"/{number}")) for number in range(3_000))))
    alone = time.process_time() - began
    assert (len(found.backups), len(found.copies)) == (1, 3_000)
    began = time.process_time()
    read_lines(lines(*(line_of(backup(1, file=f"/{number}")) for number in range(12_000))))
    assert time.process_time() - began < 10 * alone


def test_a_forgotten_backup_is_gone_until_it_is_added_again() -> None:
    forgotten = lines(line_of(FIRST), line_of(SECOND), forget_line(FIRST.digest, NOW))
    assert (read_lines(forgotten).backups, read_lines(forgotten).forgotten) == ((SECOND,), 1)
    assert read_lines(forgotten + lines(line_of(FIRST))).backups == (SECOND, FIRST)


def line(**fields: object) -> bytes:
    return json.dumps({"version": 1, "line": "backup", **FIRST.to_json(), **fields}).encode()


@pytest.mark.parametrize(
    "bad",
    [
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        line_of(FIRST)[:-1],
        line(version=2),
        line(version=True),
        line(version=1.5),
        line(line="other"),
        line(line=["backup"]),
        line(digest="x"),
        line(readable=1),
        line(expires="tomorrow"),
        line(expires="2027-01-01T00:00:00"),
        line(keys=None),
        line(keys=[["aescbc", "old"]]),
        line(bytes=-1),
        b'{"version": 1, "line": "forget"}',
        line_of(FIRST)[:-1] + b', "keys": []}',
        line_of(FIRST)[:-1] + b', "later": {"a": 1, "a": 2}}',
        line_of(FIRST)[:-1] + b', "later": NaN, "bytes": NaN}',
        line(bytes=10**400),
        line(expires="2027-01-01\x1b[2J00:00:00+00:00"),
        b"\0" * 4_096,
    ],
)
def test_a_line_that_says_nothing_is_counted_and_costs_itself_alone(bad: bytes) -> None:
    found = read_lines(lines(line_of(FIRST), bad, line_of(SECOND)))
    assert found.backups == (FIRST, SECOND)
    [damaged] = found.damaged
    assert (damaged.number, damaged.digest) == (2, hashlib.sha256(bad).hexdigest())
    assert "garbage" not in damaged.because
    ended = read_lines(lines(line_of(FIRST), bad, line_of(SECOND), forget_line(damaged.digest, NOW)))
    assert (ended.damaged, ended.forgotten) == ((), 1)


def test_a_torn_last_line_is_damaged_and_an_unended_whole_one_is_not() -> None:
    torn = read_lines(line_of(FIRST) + b"\n" + line_of(SECOND)[:40])
    assert (torn.backups, [one.number for one in torn.damaged]) == ((FIRST,), [2])
    assert read_lines(line_of(FIRST) + b"\n" + line_of(SECOND)).backups == (FIRST, SECOND)


@given(st.lists(st.binary(max_size=60)), st.integers(0, 2_000))
def test_any_bytes_are_read(chunks: list[bytes], cut: int) -> None:
    raw = b"\n".join([*chunks, line_of(FIRST), line_of(SECOND)])[: -cut or None]
    found = read_lines(raw)
    counted = len({one for one in raw.split(b"\n") if one.strip()})
    assert len(found.backups) + len(found.damaged) <= counted
    assert bool(found.damaged) or counted == len(found.backups)


def test_a_digest_is_named_by_its_head() -> None:
    other = backup(0, digest="f" * 64)
    catalogue = Catalogue((FIRST, SECOND, other))
    assert catalogue.digest_of("f" * 8) == other.digest
    for head in ("f" * 7, "0" * 8, "e" * 8, ""):
        with pytest.raises(ValueError, match="catalogue ha"):
            catalogue.digest_of(head)


def test_an_expired_backup_is_kept_as_long_as_its_file_is_there() -> None:
    expired = backup(3, expires=NOW - DAY)
    assert Catalogue((FIRST, expired)).kept(NOW) == (FIRST,)
    assert Catalogue((FIRST, expired)).kept(NOW - 1) == (FIRST, expired)
    assert Catalogue((FIRST, expired), present=frozenset({expired.digest})).kept(NOW) == (FIRST, expired)


def test_the_newest_is_the_one_made_last() -> None:
    assert newest([]) is None
    assert newest([FIRST, backup(9, made=NOW - 9 * DAY)]) == FIRST


def test_the_figures_of_the_metrics() -> None:
    closed, expired = backup(3, readable=False, made=NOW), backup(4, expires=NOW - DAY)
    damaged = read_lines(b"garbage").damaged
    figures = figures_of(Catalogue((FIRST, closed, expired), damaged), NOW)
    assert figures == BackupFigures(newest_proven_at=FIRST.made_at, kept=2, not_readable=1, damaged_lines=1)
    assert figures_of(Catalogue(), NOW) == BackupFigures(0.0, 0, 0, 0)
