"""Tries: object versions that no key opened. By each, an attacker who writes to etcd learns if a key opens it. Pure.

Each version of an object counts once, by its digest: a page read again, another sweep or another campaign shows the
attacker nothing new. So does each wrapped key that a KMS plugin refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

from kube_rewrap.worker.records.form import Form, Most, Named, Time, form_of

DAY = 86_400.0
MOST_KEPT = 1_000
"""Most tries on record, for any setting: each write of the record contains them all."""

Digest = Annotated[str, form_of(form=re.compile(r"[0-9a-f]{32}"))]


def digest_of(key: bytes, mod_revision: int) -> str:
    """Return the digest of one version of an object, 32 hex digits. The record has no etcd keys: they may be long."""
    return sha256(b"%d " % mod_revision + key).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Tries(Form):
    """The time of each first try, in seconds since 1970, by digest."""

    at: Annotated[Mapping[Digest, Time], Most(MOST_KEPT), Named("tried")] = field(default_factory=dict)

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
