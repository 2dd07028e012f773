"""The catalogue of backups: which backup needs which keys, and when it expires. Pure.

A catalogue is a JSON-lines file. A line adds a backup, or forgets one. It holds no key and no name of an object; keys
are named by provider, name and fingerprint. Rules of reading, in the order of the lines:

1. A line that adds a backup whose digest and etcd prefix an earlier one has replaces what that one says, but for two
   things. The content is the same, so that keys which it needed once it still needs. A file at another path is another
   copy: the backup expires with the last one.
2. A line that forgets a digest ends the backups of that digest, or the damaged line of that digest.
3. A line that is no such object, of another version, or torn is *damaged*: its digest is the SHA-256 of its bytes. It
   is counted and shown until a line forgets it, since it may have named a backup.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated

from kube_rewrap.worker.records.form import Count, Form, Later, Moment, Most, Text, form_of
from kube_rewrap.worker.verdict import KeyRef

_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_LINE = 4 << 20
"""Longest line in bytes. A backup needs some hundred keys; 10,000 KEKs take 1 MB."""
_MOST_KEYS = 20_000

_MOST_DIGITS = 20
_GRACE = 86_400.0

_MOST_OUTSIDE = 1_000
Digest = Annotated[str, form_of(form=_DIGEST)]
Keys = Annotated[tuple[KeyRef, ...], Most(_MOST_KEYS)]


@dataclass(frozen=True, slots=True)
class Backup(Form):
    """One backup, as it was when it was added.

    `digest`: SHA-256 of the file. `made`: when the file was last written; `added`: when its proof ended. `file`: its
    absolute path then; `where`: where the operator keeps it. `keys`: what kube-apiserver needs to read it;
    `history_keys`: what else older revisions in the file are under. `unknown_keys`: missing ones, named as the values
    name them, whose fingerprint is not known (""). `expires`: when the operator deletes it, None = never. `prefix`: the
    etcd prefix below which it was proven, "" where that is not known; what is elsewhere in the file is another backup.
    `outside`: beginnings of the paths where encrypted values are elsewhere.
    """

    digest: Digest
    made: Moment
    added: Moment
    file: Text
    where: Text
    bytes: Count
    revision: Count
    readable: bool
    objects: Count
    unreadable: Count
    not_proven: Count
    keys: Keys
    history_keys: Keys
    unknown_keys: Keys
    expires: Moment | None = None
    prefix: Later[Text] = ""
    outside: Later[Annotated[tuple[Text, ...], Most(_MOST_OUTSIDE)]] = ()

    @property
    def made_at(self) -> float:
        """When the file was last written, in seconds since 1970."""
        return datetime.fromisoformat(self.made).timestamp()

    @property
    def expires_at(self) -> float:
        """When it expires, in seconds since 1970; infinity if never."""
        return math.inf if self.expires is None else datetime.fromisoformat(self.expires).timestamp()

    def is_expired(self, now: float) -> bool:
        """Whether its time has been over for a day: clocks differ, and a job may delete it late."""
        return self.expires_at + _GRACE <= now


@dataclass(frozen=True, slots=True)
class DamagedLine:
    """A line that says nothing: its number in the file from 1, the SHA-256 of its bytes, and what is wrong."""

    number: int
    digest: str
    because: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"line": self.number, "digest": self.digest, "because": self.because}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The backups that were added and not forgotten, in the order in which they were added, and the damaged lines.

    `copies`: the backups once more, as the last line for each path has them. `distrust`: why another user could have
    written the file, "" = none could. `present`: digests of backups of which a file is still at its path, with the size
    and time that it had, or may be.
    """

    backups: tuple[Backup, ...] = ()
    damaged: tuple[DamagedLine, ...] = ()
    forgotten: int = 0
    distrust: str = ""
    copies: tuple[Backup, ...] = ()
    present: frozenset[str] = field(default=frozenset())

    def kept(self, now: float) -> tuple[Backup, ...]:
        """Return the backups that still exist: those that did not expire, and those whose file is still there."""
        return tuple(one for one in self.backups if not one.is_expired(now) or one.digest in self.present)

    def digest_of(self, head: str) -> str:
        """Return the digest of the one backup or damaged line that begins with `head`. Raises ValueError."""
        known = {*(one.digest for one in self.backups), *(one.digest for one in self.damaged)}
        found = [one for one in known if one.startswith(head)] if len(head) >= _SHORTEST else []
        if len(found) != 1:
            raise ValueError("several lines of the catalogue have it" if found else "no line of the catalogue has it")
        return found[0]


_SHORTEST = 8
"""Fewest digits of a digest that name a line."""


def read_lines(raw: bytes) -> Catalogue:
    """Return what the bytes of a catalogue say."""
    copies: dict[str, _Copies] = {}
    damaged: dict[str, DamagedLine] = {}
    forgotten = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            added, ended = _read(line)
        except (ValueError, RecursionError) as error:
            because = "it is nested too deep" if isinstance(error, RecursionError) else _shown(error)
            digest = hashlib.sha256(line).hexdigest()
            damaged[digest] = DamagedLine(number, digest, because)
            continue
        if added is not None:
            copies[added.digest] = _added(copies.pop(added.digest, {}), added)
        elif copies.pop(ended, None) or damaged.pop(ended, None):
            forgotten += 1
    contents = [[*of.values()] for prefixes in copies.values() for of in prefixes.values()]
    every = tuple(one for of in contents for one in of)
    return Catalogue(tuple(map(_whole, contents)), tuple(damaged.values()), forgotten, copies=every)


_Copies = dict[str, dict[str, Backup]]
"""The copies of one digest by etcd prefix and path, the one that was added last as the last."""


def _added(copies: _Copies, added: Backup) -> _Copies:
    of = copies.setdefault(added.prefix, {})
    if of:
        # It has all keys that were on record before.
        last = next(reversed(of.values()))
        keys = {*added.keys, *last.keys}
        history = {*added.history_keys, *last.history_keys} - keys
        added = replace(added, keys=tuple(sorted(keys)), history_keys=tuple(sorted(history)))
    of.pop(added.file, None)
    of[added.file] = added
    return copies


def _whole(copies: Sequence[Backup]) -> Backup:
    """Return the copy that was added last; it expires with the one that expires last."""
    return replace(copies[-1], expires=max(copies, key=lambda one: one.expires_at).expires)


def _shown(error: ValueError) -> str:
    """Return what is wrong without the line's text, which errors of decoders quote."""
    is_decoder = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return "it is no JSON: torn, or not written by rewrap" if is_decoder else str(error)


def _read(line: bytes) -> tuple[Backup | None, str]:
    if len(line) > _MOST_LINE:
        raise ValueError(f"it is longer than {_MOST_LINE} bytes")
    value = json.loads(line, object_pairs_hook=_object, parse_int=_number)
    if not isinstance(value, dict):
        raise ValueError("it is no object with fields")  # noqa: TRY004 - bad data, not a caller's bug
    if value.get("version") != _VERSION or isinstance(value["version"], bool):
        raise ValueError(f"its version is not {_VERSION}: a newer rewrap may have written it")
    match value.get("line"):
        case "backup":
            return Backup.from_json(value), ""
        case "forget":
            return None, _Forgotten.from_json(value).digest
    raise ValueError("it neither adds nor forgets a backup")


def _number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number in it is too large")
    return int(digits)


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON. Raises ValueError for one that has a field twice: readers differ in which they take."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a field is there twice")
    return made


@dataclass(frozen=True, slots=True)
class _Forgotten(Form):
    digest: Digest
    at: Moment


def line_of(backup: Backup) -> bytes:
    """Return the line that adds a backup, without its end."""
    return _line("backup", backup.to_json())


def forget_line(digest: str, now: float) -> bytes:
    """Return the line that forgets a digest."""
    return _line("forget", _Forgotten(digest, moment(now)).to_json())


def _line(kind: str, fields: Mapping[str, object]) -> bytes:
    return json.dumps({"version": _VERSION, "line": kind, **fields}).encode()


def moment(seconds: float) -> str:
    """Return a time in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def newest(backups: Iterable[Backup]) -> Backup | None:
    """Return the backup that was made last."""
    return max(backups, key=lambda one: one.made_at, default=None)
