"""What a watch counted of anyone's writes, and up to which revision that is all there was. Pure.

Each name in the configuration has its place: of the keys that govern what it names, each PUT before that
revision is in `counts`, and none behind it. A key that left a resource's chain is followed in it no longer,
from where the observer was then on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.resources import ANY, GroupResource

_KEPT = 20
_REPLACED = 100
ANY_KEY = "*"
"""Stands for every key, in what was recorded before the keys were."""


def governing(resource: str, names: Collection[str]) -> str | None:
    """Return which of the names in a configuration governs a resource; exact ones go before wildcards."""
    one = GroupResource.parse(resource)
    candidates = (str(one), str(GroupResource("*", one.group)), str(ANY))
    return next((name for name in candidates if name in names), None)


@dataclass(frozen=True, slots=True)
class Followed:
    """Up to which revision keys, by fingerprint, were followed in what the configuration names."""

    places: Mapping[str, int]
    chains: Mapping[str, tuple[str, ...]]

    def place(self, resource: str, fingerprint: str) -> int:
        """Return up to where a key was followed in a resource, 0 = it was not."""
        name = governing(resource, self.chains)
        is_followed = name is not None and not {fingerprint, ANY_KEY}.isdisjoint(self.chains[name])
        return self.places.get(name, 0) if name is not None and is_followed else 0


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
    replaced: tuple[int, ...] = ()
    """The mod_revisions of the versions of this record that it replaced, and that the watch has not passed."""

    @property
    def until(self) -> int:
        """Every write before this revision is counted; 0 = nobody ever watched."""
        return min(self.followed[0].places.values(), default=0) if self.followed else 0

    @property
    def chains(self) -> Mapping[str, tuple[str, ...]]:
        """The keys that are followed, by the name in the configuration that they govern."""
        return self.followed[0].chains if self.followed else {}

    def position(self, resource: str, fingerprint: str) -> int:
        """Return the revision before which every write under a key in a resource is counted; 0 = none is."""
        return next((place for one in self.followed if (place := one.place(resource, fingerprint))), 0)

    def replacing(self, places: Mapping[str, int]) -> tuple[int, ...]:
        """Return `replaced` of the version that replaces this one, when the watch has come to these places."""
        passed = min(places.values(), default=self.revision + 1)
        return tuple(at for at in (*self.replaced, self.revision) if at >= passed)[-_REPLACED:]

    def following(self, places: Mapping[str, int], chains: Mapping[str, tuple[str, ...]]) -> tuple[Followed, ...]:
        """Return `followed` when these keys are followed up to these places."""
        return (Followed(places, chains), *(one for one in self.followed if one.chains != chains))[:_KEPT]
