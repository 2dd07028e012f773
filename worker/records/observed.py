"""The writes of all processes as a watch counted them, and the revisions up to which the counts are complete. Pure.

Each name in the configuration (a resource or a wildcard) has a place, a revision: `counts` holds every PUT before it
under the keys of the name's chain, and none from it on. The observer stops following a key in a resource at the
place where it was when the key left the resource's chain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.resources import ANY, GroupResource

_KEPT = 20
_REPLACED = 100
ANY_KEY = "*"
"""Stands for every key, in records of earlier versions, which did not record the keys."""


def governing(resource: str, names: Collection[str]) -> str | None:
    """Return which of the names in a configuration governs a resource; exact ones go before wildcards."""
    one = GroupResource.parse(resource)
    candidates = (str(one), str(GroupResource("*", one.group)), str(ANY))
    return next((name for name in candidates if name in names), None)


@dataclass(frozen=True, slots=True)
class Followed:
    """Up to which revision (`places`) the observer followed which keys (`chains`), by name in the configuration."""

    places: Mapping[str, int]
    chains: Mapping[str, tuple[str, ...]]

    def place(self, resource: str, fingerprint: str) -> int:
        """Return the revision up to which the observer followed a key in a resource, 0 = it did not."""
        name = governing(resource, self.chains)
        is_followed = name is not None and not {fingerprint, ANY_KEY}.isdisjoint(self.chains[name])
        return self.places.get(name, 0) if name is not None and is_followed else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Counts of writes by the key's fingerprint, and the places up to which they are complete.

    `followed` begins with the present configuration; the earlier ones follow, the newest first. `last` holds
    the revision of the last write by fingerprint, `since` the time (seconds since 1970) from which on the observer
    counted writes under a key.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    followed: tuple[Followed, ...] = ()
    last: Mapping[str, int] = field(default_factory=dict)
    since: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    """The record's own mod_revision, 0 before it was written."""
    replaced: tuple[int, ...] = ()
    """The mod_revisions of this record's earlier versions, as far as the watch has not passed them."""

    @property
    def until(self) -> int:
        """Every write before this revision is counted; 0 = no observer ever ran."""
        return min(self.followed[0].places.values(), default=0) if self.followed else 0

    @property
    def chains(self) -> Mapping[str, tuple[str, ...]]:
        """The fingerprints of the keys that the observer follows, by the name in the configuration."""
        return self.followed[0].chains if self.followed else {}

    def position(self, resource: str, fingerprint: str) -> int:
        """Return the revision before which every write under a key in a resource is counted; 0 = no write is."""
        return next((place for one in self.followed if (place := one.place(resource, fingerprint))), 0)

    def replacing(self, places: Mapping[str, int]) -> tuple[int, ...]:
        """Return the `replaced` of the next version of this record, with the watch at these places."""
        passed = min(places.values(), default=self.revision + 1)
        return tuple(at for at in (*self.replaced, self.revision) if at >= passed)[-_REPLACED:]

    def following(self, places: Mapping[str, int], chains: Mapping[str, tuple[str, ...]]) -> tuple[Followed, ...]:
        """Return the `followed` of a version in which the observer followed these chains up to these places."""
        return (Followed(places, chains), *(one for one in self.followed if one.chains != chains))[:_KEPT]
