"""Which key-encryption key (KEK) a KMS provider is to write with, and which one its plugin names now.

A KEK is rotated in the KMS; no file changes, and kube-apiserver does not report it. The leader asks the plugin for its
key id and records it here. Key ids are held as hashes: they may be account numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

from kube_rewrap.worker.records.form import Form, Most, Text, Time, form_of, or_empty
from kube_rewrap.worker.verdict import KeyRef

_FORMER = 50
"""Former KEKs that a record keeps."""

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")

_read_hash = form_of(form=re.compile(r"sha256:[0-9a-f]{64}"))
KeyIdHash = Annotated[str, _read_hash]
"""As `wrapped.hash_of_key_id` returns it. A record with another text is damaged: outputs and metrics show its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kek(Form):
    """One KMS provider. Times in seconds since 1970."""

    provider: Text
    target: KeyIdHash
    """What campaigns rewrap to."""
    since: Time
    """When `target` became the target."""
    named: Annotated[str, or_empty(_read_hash)] = ""
    """What the plugin names, where that is not the target; "" = it names the target."""
    named_since: Time = 0.0
    former: Annotated[tuple[KeyIdHash, ...], Most(_FORMER)] = ()
    """Earlier targets, the newest last."""

    @property
    def fingerprint(self) -> str:
        """The target as `status` names it: the first 16 hexadecimal digits."""
        return self.target.removeprefix("sha256:")[:16]

    @property
    def is_return(self) -> bool:
        """Whether the plugin names a former target again."""
        return self.named in self.former

    def why_held(self, seconds: float) -> str:
        """Return why campaigns must not write under this provider, "" = they may.

        `seconds` is how long a plugin names a new KEK before it takes effect.
        """
        if not self.named:
            return ""
        if self.is_return:
            return (
                f"the plugin of the KMS provider {self.provider!r} names a KEK that was in force before: a key id must "
                "never come back: rewrap could not distinguish old data from new. Let the plugin name a new key id"
            )
        return (
            f"the plugin of the KMS provider {self.provider!r} names another KEK; it takes effect after the plugin has "
            f"named it for {seconds:g} s"
        )


@dataclass(frozen=True, slots=True)
class KekFigures:
    """What the leader shows of one KMS provider: times in seconds since 1970, 0.0 = unknown."""

    named_at: float = 0.0
    """When the plugin last named a key id."""
    since: float = 0.0
    """As `Kek.since`."""
    is_held: bool = False

    def worse(self, other: KekFigures) -> KekFigures:
        """Return one figure for two providers that share a label: held if one is, as old as the older one."""
        named_at, since = min(self.named_at, other.named_at), min(self.since, other.since)
        return KekFigures(named_at, since, is_held=self.is_held or other.is_held)


def observe(known: Kek | None, provider: str, named: str, now: float, settle: float) -> Kek:
    """Return the record after a provider's plugin named a KEK at `now`.

    1. The first KEK that a plugin names is the target at once.
    2. Another one becomes the target after the plugin has named it for `settle` seconds, without a break.
    3. A former target never becomes the target again.
    """
    if known is None:
        return Kek(provider=provider, target=named, since=now)
    if named == known.target:
        return replace(known, named="", named_since=0.0)
    # A clock that was set back must not make a KEK look older than it is.
    is_known = named == known.named and known.named_since <= now
    seen = replace(known, named=named, named_since=known.named_since if is_known else now)
    if seen.is_return or now - seen.named_since < settle:
        return seen
    former = (*known.former, known.target)[-_FORMER:]
    return Kek(provider=provider, target=named, since=now, former=former)


def is_unheard_of(key: KeyRef, primary: KeyRef, in_force: Collection[str]) -> bool:
    """Whether a value's key is a KEK of the primary KMS v2 provider that was never in force.

    `in_force` as `Keks.in_force` returns it. Where that is not known, no KEK is unheard of.
    """
    if not (in_force and key.is_kek and primary.is_kek) or key.name != primary.name:
        return False
    return _FINGERPRINT.fullmatch(key.kek.fingerprint) is not None and key.kek.fingerprint not in in_force
