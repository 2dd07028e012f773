"""What a watch counted of anyone's writes, and up to which revision that is all there was. Pure.

Everything here is as of one revision, `until`: of the keys that are followed in a resource, each PUT before
it is in `counts`. Which keys those are is told by the chains of the configuration that the observer had.
A key that left a resource's chain is followed in it no longer, from where the observer was then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from config.resources import ANY, GroupResource

_KEPT = 20
ANY_KEY = "*"
"""Stands for every key, in what was recorded before the keys were."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Up to which revision these keys, by fingerprint, were followed in what the configuration names."""

    until: int
    chains: Mapping[str, tuple[str, ...]]

    def has(self, resource: str, fingerprint: str) -> bool:
        """Tell whether a key was followed in a resource; names go before wildcards, as in the configuration."""
        one = GroupResource.parse(resource)
        for name in (str(one), str(GroupResource("*", one.group)), str(ANY)):
            if name in self.chains:
                return fingerprint in self.chains[name] or ANY_KEY in self.chains[name]
        return False


@dataclass(frozen=True, slots=True)
class Observations:
    """Writes by the fingerprint of their key, and up to where they were counted.

    `followed` begins with the present configuration; behind it are earlier ones, the newest first. `last`
    holds the revision of the last write by fingerprint, `since` the time (seconds since 1970) from which on
    writes under a key were counted.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    followed: tuple[Followed, ...] = ()
    last: Mapping[str, int] = field(default_factory=dict)
    since: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    """The record's own mod_revision, 0 before it was written."""

    @property
    def until(self) -> int:
        """Every write before this revision is counted; 0 = nobody ever watched."""
        return self.followed[0].until if self.followed else 0

    @property
    def chains(self) -> Mapping[str, tuple[str, ...]]:
        """The keys that are followed, by the name in the configuration that they govern."""
        return self.followed[0].chains if self.followed else {}

    def follows(self, resource: str, fingerprint: str) -> bool:
        """Tell whether writes under this key in this resource are being counted."""
        return bool(self.followed) and self.followed[0].has(resource, fingerprint)

    def position(self, resource: str, fingerprint: str) -> int:
        """Return the revision before which every write under a key in a resource is counted; 0 = none is."""
        return next((one.until for one in self.followed if one.has(resource, fingerprint)), 0)

    def following(self, until: int, chains: Mapping[str, tuple[str, ...]]) -> tuple[Followed, ...]:
        """Return `followed` when these keys are followed up to a revision."""
        before = self.followed[1:] if self.followed and self.followed[0].chains == chains else self.followed
        return (Followed(until, chains), *(one for one in before if one.chains != chains))[:_KEPT]
