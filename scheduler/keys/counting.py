"""Counts what a watch over several spans delivers, so that one can say up to where the counts are complete. Pure.

- A key's writes in a resource are counted from a first revision on: where it was followed already, from where
  that ended; where its objects were looked at, or it was made, from the next revision on. What was written
  before is an estimate, or nothing, and is not counted again.
- Until that first revision is known, its writes are held, and nothing goes on record.
- What goes on record of a span is complete up to the place that it has reached, and goes on record with it. So
  our own swaps can be told from others' writes.
- A gap counts, for each key that has a limit, every revision that may have been a write of that key: not those
  before the key was there, not those that are known to be something else, and none twice.

Not handled here: what a key is, and where the events come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.observed import Observations, governing

Pair = tuple[str, str]
"""A resource, and a key in its chain by fingerprint."""
Interval = tuple[int, int]


class Counting:
    """See the module's docstring.

    `chains` are those of the configuration, `spans` the names in it that each span is watched for, `now` is the store's
    next revision.
    """

    def __init__(
        self, recorded: Observations, chains: Mapping[str, tuple[str, ...]], spans: Sequence[Collection[str]], now: int
    ) -> None:
        # A restore takes the store back; what was seen beyond its end is not seen of what comes there now.
        clipped = (
            replace(one, places={name: min(place, now) for name, place in one.places.items()})
            for one in recorded.followed
        )
        self.recorded = replace(recorded, followed=tuple(clipped))
        self.chains = chains
        self._span_of = {name: index for index, names in enumerate(spans) for name in names}
        self._now = now
        self._places = [now] * len(spans)
        self._begins = list(self._places)
        self._starts: dict[Pair, int | None] = {}
        self._budgets: Mapping[str, Budget] = {}
        self._pending: dict[Pair, list[int]] = {}
        self._grown: Counter[str] = Counter()
        self._bridged: dict[str, list[Interval]] = {}
        self._last = dict(recorded.last)
        self._folding: dict[Pair, list[int]] = {}
        self._folded: Counter[str] = Counter()

    # From where on.

    def place(self, pairs: Iterable[Pair], budgets: Mapping[str, Budget]) -> list[Pair]:
        """Note what keys may have written in which resources before now.

        Returns those whose first revision nobody knows: their objects have to be looked at, and this is called again.
        """
        self._budgets = budgets
        for pair in pairs:
            self._starts[pair] = self._start(*pair, existed=True)
        for pair in self._former():
            self._starts.setdefault(pair, self._start(*pair, existed=True))
        return [pair for pair, start in self._starts.items() if start is None]

    def _former(self) -> list[Pair]:
        """Return what was looked at, or followed by its name, and may have no object now.

        For a key that we made, that is all that a wildcard names, and what earlier configurations named apart from it.
        """
        born = {key for key, budget in self._budgets.items() if budget.born}
        named = {name for one in self.recorded.followed for name in one.chains if not name.startswith("*")}
        found = [
            (name, key)
            for name in named
            for key in self._chain(name)
            if key in born or self.recorded.position(name, key)
        ]
        found += [(name, key) for name in self.chains if name.startswith("*") for key in born & {*self.chains[name]}]
        for key, budget in self._budgets.items():
            found += [(resource, key) for resource in budget.sights or () if key in self._chain(resource)]
        return found

    def _chain(self, resource: str) -> tuple[str, ...]:
        return self.chains.get(governing(resource, self.chains) or "", ())

    def vanished(self, pairs: Iterable[Pair]) -> None:
        """Note that these had no object any more when they were looked at: what the watch sees of them counts."""
        for resource, fingerprint in pairs:
            self._starts[resource, fingerprint] = self._start(resource, fingerprint, existed=False)

    def starts(self) -> dict[Pair, int]:
        """Return from where on each key is counted in each resource, where that is known."""
        return {pair: start for pair, start in self._starts.items() if start is not None}

    def is_first(self, pair: Pair) -> bool:
        """Tell whether nobody ever counted this key's writes in this resource."""
        return not self.recorded.position(*pair)

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Note that the first revision of these is too old to be of use."""
        for pair in pairs:
            self._starts[pair] = None

    def watch(self) -> list[int]:
        """Return the first revision that is to be delivered of each span."""
        for name, span in self._span_of.items():
            places = [self.recorded.position(name, key) for key in self.chains[name]]
            self._begins[span] = min([self._begins[span], *filter(None, places)])
        for (resource, _), start in self.starts().items():
            self._begins[self._span(resource)] = min(self._begins[self._span(resource)], start)
        self._places = list(self._begins)
        return list(self._begins)

    def _span(self, resource: str) -> int:
        return self._span_of[governing(resource, self.chains) or ""]

    def _start(self, resource: str, fingerprint: str, *, existed: bool) -> int | None:
        position, budget = self.recorded.position(resource, fingerprint), self._budgets.get(fingerprint)
        begins = budget.begins(resource) if budget else None
        if position:
            return max(position, begins or 0)
        return self._begins[self._span(resource)] if begins is None and not existed else begins

    # What is delivered.

    @property
    def places(self) -> list[int]:
        """The next revision to be delivered, of each span."""
        return list(self._places)

    @property
    def until(self) -> int:
        """The revision before which everything was delivered."""
        return min(self._places, default=self._now)

    @property
    def unplaced(self) -> bool:
        """Whether something was written in a resource that was not there before."""
        return any(pair not in self._starts for pair in self._pending)

    def appeared(self, budgets: Mapping[str, Budget]) -> None:
        """Note that what has no first revision yet was not there when the watch began."""
        self._budgets = budgets
        for pair in self._pending.keys() - self._starts.keys():
            self._starts[pair] = self._start(*pair, existed=False)

    def wrote(self, resource: str, fingerprint: str, revision: int) -> None:
        """Count one write."""
        self._pending.setdefault((resource, fingerprint), []).append(revision)
        self._note_last(fingerprint, revision)

    def moved(self, span: int, following: int) -> None:
        """Note that all of a range before a revision was delivered."""
        self._places[span] = max(self._places[span], following)

    def is_at(self, span: int) -> int:
        """Return the next revision of a range."""
        return self._places[span]

    def bridge(self, span: int, gap: Gap, fingerprints: Iterable[str]) -> int:
        """Count what may have been written in a span before the end of a gap, and was never delivered.

        `fingerprints` are the keys that it matters for. Returns the most that was added for any of them.
        """
        names = [name for name, index in self._span_of.items() if index == span]
        counted = {revision for held in self._pending.values() for revision in held}
        counted |= {at for at, resource in gap.wheres.items() if at < self._places[self._span(resource)]}
        end, most = gap.end, 0
        for fingerprint in fingerprints:
            if not any(fingerprint in self.chains[name] for name in names):
                continue
            first = max(self._places[span], self._floor(fingerprint, names))
            left = _without(first, end, self._bridged.get(fingerprint, []))
            added = sum(gap.most(fingerprint, low, high, counted) for low, high in left)
            if first < end:
                self._bridged.setdefault(fingerprint, []).append((first, end))
                self._note_last(fingerprint, end - 1)
            self._grown[fingerprint] += added
            most = max(most, added)
        self.moved(span, end)
        return most

    def _floor(self, fingerprint: str, names: Collection[str]) -> int:
        """Return the revision before which all that a key has written there is counted, or estimated, or will be."""
        starts = self.starts().items()
        found = [at for (where, key), at in starts if key == fingerprint and governing(where, self.chains) in names]
        budget = self._budgets.get(fingerprint)
        for name in names:
            if name.startswith("*") and fingerprint in self.chains[name]:
                position = self.recorded.position(name, fingerprint)
                found.append(
                    position or (budget.born + 1 if budget and budget.born else self._begins[self._span(name)])
                )
        return min(found, default=self._now)

    def _note_last(self, fingerprint: str, revision: int) -> None:
        self._last[fingerprint] = max(self._last.get(fingerprint, 0), revision)

    # What goes on record.

    @property
    def counts(self) -> dict[str, int]:
        """Writes by fingerprint, with those that can't go on record yet."""
        return dict(self._counted())

    def fold(self, now: int) -> Observations | None:
        """Return what can go on record at this time (seconds since 1970); None while there is nothing."""
        places = {name: self._places[span] for name, span in self._span_of.items()}
        reached = [(name, key) for name in self.chains for key in self.chains[name]]
        is_behind = any(
            self.recorded.position(*pair) > self._places[self._span(pair[0])] for pair in (*reached, *self._starts)
        )
        if is_behind or self.unplaced or None in self._starts.values():
            return None
        self._folding = {
            pair: [revision for revision in held if revision < self._places[self._span(pair[0])]]
            for pair, held in self._pending.items()
        }
        counts = dict(self._counted(self._folding))
        since = {fingerprint: self.recorded.since.get(fingerprint, now) for fingerprint in counts}
        followed = self.recorded.following(places, self.chains)
        self._folded = Counter(self._grown)
        replaced = self.recorded.replacing(places)
        return Observations(counts, followed, dict(self._last), since, self.recorded.revision, replaced)

    def saved(self, seen: Observations) -> None:
        """Note that what was folded last is on record by now. What was delivered meanwhile is held."""
        self.recorded = seen
        for pair, folded in self._folding.items():
            # By value: what etcd delivers late stands behind what it overtook.
            left = Counter(self._pending[pair]) - Counter(folded)
            self._pending[pair] = list(left.elements())
        self._grown -= self._folded

    def _counted(self, pending: Mapping[Pair, Collection[int]] | None = None) -> Counter[str]:
        counts = Counter(self.recorded.counts)
        for (resource, fingerprint), held in (self._pending if pending is None else pending).items():
            start = self._starts.get((resource, fingerprint), self._begins[self._span(resource)])
            wrote = sum(revision >= start for revision in held) if start is not None else 0
            if wrote:
                counts[fingerprint] += wrote
        counts.update({fingerprint: added for fingerprint, added in self._grown.items() if added})
        return counts


def _without(first: int, end: int, covered: Iterable[Interval]) -> list[Interval]:
    """Return what is left of an interval when others are taken out of it."""
    left = [(first, end)] if first < end else []
    for low, high in covered:
        left = [
            piece for one, two in left for piece in ((one, min(two, low)), (max(one, high), two)) if piece[0] < piece[1]
        ]
    return left
