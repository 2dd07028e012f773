"""The writes of all processes as a watch counted them, and the revisions up to which the counts are complete. Pure.

Each name in the configuration (a resource or a wildcard) has a place, a revision: `counts` holds every PUT before it
under the keys of the name's chain, and none from it on. The observer stops following a key in a resource at the
place where it was when the key left the resource's chain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.resources import ANY, GroupResource, Layout, Located
from kube_rewrap.worker.etcd.ranges import key_bytes
from kube_rewrap.worker.fields import Fields, count_of, list_of, mapping_of, text_of
from kube_rewrap.worker.records.form import Count, Form, Later, Text, read

_KEPT = 20
_REPLACED = 100
ANY_KEY = "*"
"""Means every key, in records of earlier versions, which did not record the keys."""


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

    def to_json(self) -> dict[str, list[object]]:
        """Return the JSON form: by name, a list of the place and the keys."""
        return {name: [self.places[name], *keys] for name, keys in self.chains.items()}

    @classmethod
    def from_json(cls, value: object) -> Followed:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        places: dict[str, int] = {}
        chains: dict[str, tuple[str, ...]] = {}
        for name, one in mapping_of(value, "followed").items():
            place, *keys = list_of(one, "followed") or [None]
            places[text_of(name, "a name")] = count_of(place, "a place")
            chains[name] = tuple(text_of(key, "a key") for key in keys)
        return cls(places, chains)

    @classmethod
    def by_path(cls, following: Mapping[str, int]) -> Followed:
        """Read the form of an earlier version: a place by the path of each range, for every key in its chain.

        A resource without a range counts as not followed; so does one at a path that the usual registry layout assigns
        to no single resource. The scheduler scans both again.
        """
        layout = Layout()
        found = {path: layout.resource_at(key_bytes(path) + b"name") for path in following}
        places = {str(one.resource): following[path] for path, one in found.items() if isinstance(one, Located)}
        return cls(places, dict.fromkeys(places, (ANY_KEY,)))

    def place(self, resource: str, fingerprint: str) -> int:
        """Return the revision up to which the observer followed a key in a resource, 0 = it did not."""
        name = governing(resource, self.chains)
        is_followed = name is not None and not {fingerprint, ANY_KEY}.isdisjoint(self.chains[name])
        return self.places.get(name, 0) if name is not None and is_followed else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations(Form):
    """Counts of writes by the key's fingerprint, and the places up to which they are complete.

    `followed` begins with the present configuration; the earlier ones follow, the newest first. `last` holds
    the revision of the last write by fingerprint, `since` the time (seconds since 1970) from which on the observer
    counted writes under a key.
    """

    counts: Mapping[Text, Count] = field(default_factory=dict)
    followed: tuple[Followed, ...] = ()
    last: Later[Mapping[Text, Count]] = field(default_factory=dict)
    since: Later[Mapping[Text, Count]] = field(default_factory=dict)
    replaced: Later[tuple[Count, ...]] = ()
    """The mod_revisions of this record's earlier versions, as far as the watch has not passed them."""

    @classmethod
    def from_json(cls, value: object) -> Observations:
        """Read the JSON form, or that of an earlier version. Raises ValueError if `value` is not one."""
        values = mapping_of(value, "it")
        if values.get("followed") is not None:
            return read(cls, values)
        followed = Followed.by_path(Fields.of(values).counts("following"))
        return replace(read(cls, {**values, "followed": []}), followed=(followed,))

    @property
    def has_begun(self) -> bool:
        """Whether an observer ever wrote the record."""
        return bool(self.followed)

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

    def replacing(self, places: Mapping[str, int], revision: int) -> tuple[int, ...]:
        """Return the `replaced` of the version that replaces this one, whose mod_revision is `revision`.

        `places` are those of the watch.
        """
        passed = min(places.values(), default=revision + 1)
        return tuple(at for at in (*self.replaced, revision) if at >= passed)[-_REPLACED:]

    def following(self, places: Mapping[str, int], chains: Mapping[str, tuple[str, ...]]) -> tuple[Followed, ...]:
        """Return the `followed` of a version in which the observer followed these chains up to these places."""
        return (Followed(places, chains), *(one for one in self.followed if one.chains != chains))[:_KEPT]
