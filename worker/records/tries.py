"""Values that were tried in vain: who can write to etcd learns by each whether a key opens it. Pure.

Versions of objects are counted, by a digest: one that is looked at again, by a page that is redone, another sweep or
another campaign, tells nothing new and costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from kube_rewrap.worker.fields import Fields, count_of, mapping_of, matching, number_of

DAY = 86_400.0
MOST_KEPT = 1_000
"""Tries on record, whatever a campaign's record allows: each write of it has all of them."""

_DIGEST = re.compile(r"[0-9a-f]{32}")


def digest_of(key: bytes, mod_revision: int) -> str:
    """Return the name of one version of an object. Etcd keys are not kept: they may be long."""
    return sha256(b"%d " % mod_revision + key).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Tries:
    """When each was tried first, in seconds since 1970, by its digest."""

    at: Mapping[str, float] = field(default_factory=dict)

    def counted(self, digests: Iterable[str], now: float, most: int) -> Tries | None:
        """Return the tries of a day with these in them; None, and none of them counts, where that is more than `most`.

        What a clock that was ahead put into the future counts from now on.
        """
        known = {digest: min(at, now) for digest, at in self.at.items() if now - at < DAY}
        new = {digest: now for digest in digests if digest not in known}
        if not new:
            return self
        return Tries(known | new) if len(known) + len(new) <= min(most, MOST_KEPT) else None

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {"tried": dict(self.at)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Tries:
        """Read the JSON form. Raises ValueError where it is not one."""
        return cls(Fields.of(value).one("tried", _tried))


def _tried(value: object) -> dict[str, float]:
    tried = mapping_of(value, "tried")
    count_of(len(tried), "the number of tries", most=MOST_KEPT)
    return {matching(digest, "a try", _DIGEST): number_of(at, "the time of a try") for digest, at in tried.items()}
