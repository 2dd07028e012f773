"""The world of the budget model: objects and their writes, processes that write, and observers that watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from kube_rewrap.scheduler.keys.counting import Counting, Pair
from kube_rewrap.worker.records.budget import Budget, Landed
from kube_rewrap.worker.records.observed import Observations

RESOURCES = ("configmaps", "secrets")
KEYS = ("one", "two", "three", "four", "made")
Chains = dict[str, tuple[str, ...]]

CHAINS: st.SearchStrategy[Chains] = st.dictionaries(
    st.sampled_from((*RESOURCES, "*.*")),
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True).map(tuple),
    min_size=1,
)

NAMES = st.integers(0, 3)
BLOCK = 4
LIMIT = 2**32


def chain_of(chains: Chains, resource: str) -> tuple[str, ...]:
    return chains.get(resource, chains.get("*.*", ()))


@dataclass
class Event:
    revision: int
    resource: str
    key: str
    ours: bool


@dataclass(frozen=True)
class Object:
    """As etcd has it; `key` is the one that it was sealed with, "" where nothing encrypts it."""

    key: str
    created: int
    modified: int
    version: int = 1


@dataclass
class World:
    """etcd: what was written, and our records."""

    revision: int = 1
    compacted: int = 0
    log: list[Event] = field(default_factory=list)
    objects: dict[tuple[str, int], Object] = field(default_factory=dict)
    compacted_objects: dict[tuple[str, int], Object] = field(default_factory=dict)
    """As they were at the last compaction."""
    budgets: dict[str, Budget] = field(default_factory=dict)
    seen: Observations = field(default_factory=Observations)
    seen_at: int = 0
    """The mod_revision of `seen`."""

    def put(self, resource: str, name: int, key: str, *, ours: bool) -> int:
        self.log.append(Event(self.revision + 1, resource, key, ours))
        return self.write(resource, name, key)

    def write(self, resource: str, name: int, key: str) -> int:
        self.revision += 1
        before = self.objects.get((resource, name))
        now = Object(key, self.revision, self.revision)
        if before is not None:
            now = replace(now, created=before.created, version=before.version + 1)
        self.objects[resource, name] = now
        return self.revision

    def budget(self, key: str) -> Budget:
        return self.budgets[key].seen_by(self.seen)


@dataclass
class Process:
    """One of ours: its configuration, its tokens, and what landed and is on no record, or on its way there."""

    chains: Chains
    left: Counter[str] = field(default_factory=Counter)
    landed: dict[Pair, Landed] = field(default_factory=dict)
    late: list[tuple[Pair, Landed]] = field(default_factory=list)

    def open(self, key: str) -> int:
        held = [*self.landed.items(), *self.late]
        return self.left[key] + sum(one.count for (_, name), one in held if name == key)


@dataclass
class Watching:
    """An observer: what it counts, which spans it has, and what it has to look at first."""

    counting: Counting
    spans: list[tuple[str, ...]]
    unseen: list[Pair]
    again: list[Pair]
    begin: int
