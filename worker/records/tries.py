"""Tries: object versions that no key opened. By each, an attacker who writes to etcd learns if a key opens it. Pure.

Each version of an object counts once, by its digest: a page read again, another sweep or another campaign shows the
attacker nothing new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from kube_rewrap.worker.fields import Fields, count_of, mapping_of, matching, number_of

DAY = 86_400.0
MOST_KEPT = 1_000
"""Most tries on record, whatever the setting: each write of the record contains them all."""

_DIGEST = re.compile(r"[0-9a-f]{32}")


def digest_of(key: bytes, mod_revision: int) -> str:
    """Return the digest of one version of an object, 32 hex digits. The record has no etcd keys: they may be long."""
    return sha256(b"%d " % mod_revision + key).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Tries:
    """The time of each first try, in seconds since 1970, by digest."""

    at: Mapping[str, float] = field(default_factory=dict)

    def counted(self, digests: Iterable[str], now: float, most: int) -> Tries | None:
        """Return the tries with these added; None if they would be more than `most`, and none is added."""
        new = {digest: now for digest in digests if digest not in self.at}
        if not new:
            return self
        return Tries({**self.at, **new}) if len(self.at) + len(new) <= min(most, MOST_KEPT) else None

    def aged(self, now: float) -> Tries:
        """Return the tries of the last day. A recorded time in the future, by a clock that was ahead, becomes `now`.

        Only the leader's clock ages tries: those of workers may be days apart.
        """
        return Tries({digest: min(at, now) for digest, at in self.at.items() if now - at < DAY})

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {"tried": dict(self.at)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Tries:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        return cls(Fields.of(value).one("tried", _tried))


def _tried(value: object) -> dict[str, float]:
    tried = mapping_of(value, "tried")
    count_of(len(tried), "the number of tries", most=MOST_KEPT)
    return {matching(digest, "a try", _DIGEST): number_of(at, "the time of a try") for digest, at in tried.items()}
