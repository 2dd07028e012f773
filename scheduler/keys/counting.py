"""Counts the writes that a watch over several spans delivers, by resource and key. Pure.

The watch has a place in each span: the next revision that it will deliver.

1. Writes under a key in a resource are counted from a start revision on. If an observer followed the key there before,
   the start is the place that it reached. Otherwise it is the revision after the first estimate of the key's earlier
   writes, or after the key was generated. Writes before the start are in that estimate, or there are none.
2. While the start revision is unknown, the writes are held, and no counts are recorded.
3. The counts of a span are recorded together with the place, and include every write before it. The ledger can
   therefore subtract exactly those of our own swaps that the counts include.
4. In a gap, each revision that may have been a write under a key with a limit counts as one. Revisions before the key
   existed, revisions that are known to be other writes, and revisions that already count are left out.

Not handled: which key opens a value, and the watch itself (`observer.py`).
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

    `recorded` is the observer's record, `revision` its mod_revision. `chains` holds the fingerprints of the keys of
    each name in the configuration, `spans` the names that each span is watched for. `now` is the store's next revision.
    """

    def __init__(
        self,
        recorded: Observations,
        revision: int,
        chains: Mapping[str, tuple[str, ...]],
        spans: Sequence[Collection[str]],
        now: int,
    ) -> None:
        # After a restore, the store assigns recorded revisions again, to writes that no watch has delivered.
        clipped = (
            replace(one, places={name: min(place, now) for name, place in one.places.items()})
            for one in recorded.followed
        )
        self.recorded = replace(recorded, followed=tuple(clipped))
        self.revision = revision
        self.chains = chains
        self._span_of = {name: index for index, names in enumerate(spans) for name in names}
        self._now = now
        self._places = [now] * len(spans)
        self._begins = list(self._places)
        self._starts: dict[Pair, int | None] = {}
        self._budgets: Mapping[str, Budget] = {}
        self._pending: dict[Pair, list[int]] = {}
        self._added: Counter[str] = Counter()
        self._counted_gaps: dict[str, list[Interval]] = {}
        self._last = dict(recorded.last)
        self._recording: dict[Pair, list[int]] = {}
        self._recorded_added: Counter[str] = Counter()

    # Start revisions.

    def find_starts(self, pairs: Iterable[Pair], budgets: Mapping[str, Budget]) -> list[Pair]:
        """Determine the start revisions of pairs that may have writes before now; returns those that remain unknown.

        For these, the caller estimates the earlier writes, then calls this again with the updated budgets.
        """
        self._budgets = budgets
        for pair in pairs:
            self._starts[pair] = self._start(*pair, existed=True)
        for pair in self._former():
            self._starts.setdefault(pair, self._start(*pair, existed=True))
        return [pair for pair, start in self._starts.items() if start is None]

    def _former(self) -> list[Pair]:
        """Return further pairs with a known start, whose resource may have no object now.

        These are the resources with a recorded place or estimate. For a key that rewrap generated, they are also all
        wildcards, and all resources that earlier configurations named.
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

    def start_without_estimate(self, pairs: Iterable[Pair]) -> None:
        """Set the start of pairs that the estimate found no objects for: all writes that the watch delivers count."""
        for resource, fingerprint in pairs:
            self._starts[resource, fingerprint] = self._start(resource, fingerprint, existed=False)

    def starts(self) -> dict[Pair, int]:
        """Return the known start revisions."""
        return {pair: start for pair, start in self._starts.items() if start is not None}

    def is_first(self, pair: Pair) -> bool:
        """Return whether no observer has counted this key's writes in this resource before."""
        return not self.recorded.position(*pair)

    def discard_starts(self, pairs: Iterable[Pair]) -> None:
        """Make the starts of these pairs unknown: etcd has compacted past them."""
        for pair in pairs:
            self._starts[pair] = None

    def begin(self) -> list[int]:
        """Set the places to where the watch has to start, and return them by span."""
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

    # Delivered writes.

    @property
    def places(self) -> list[int]:
        """The next revision that the watch will deliver, by span."""
        return list(self._places)

    @property
    def until(self) -> int:
        """The revision before which the watch has delivered every write in every span."""
        return min(self._places, default=self._now)

    @property
    def has_new_pairs(self) -> bool:
        """Whether a write was delivered whose resource and key have no start revision yet."""
        return any(pair not in self._starts for pair in self._pending)

    def start_new_pairs(self, budgets: Mapping[str, Budget]) -> None:
        """Set the start of delivered pairs that have none: they had no object when the watch began."""
        self._budgets = budgets
        for pair in self._pending.keys() - self._starts.keys():
            self._starts[pair] = self._start(*pair, existed=False)

    def wrote(self, resource: str, fingerprint: str, revision: int) -> None:
        """Count one delivered write under a key."""
        self._pending.setdefault((resource, fingerprint), []).append(revision)
        self.note_last(fingerprint, revision)

    def moved(self, span: int, following: int) -> None:
        """Move the place of a span forward, to `following`."""
        self._places[span] = max(self._places[span], following)

    def place(self, span: int) -> int:
        """Return the next revision that the watch will deliver in a span."""
        return self._places[span]

    def count_gap(self, span: int, gap: Gap, fingerprints: Iterable[str]) -> int:
        """Count the writes that a gap in a span may hold, for these keys, and move the span's place to its end.

        Returns the largest count that was added for one key.
        """
        names = [name for name, index in self._span_of.items() if index == span]
        counted = {revision for held in self._pending.values() for revision in held}
        counted |= {at for at, resource in gap.resources.items() if at < self._places[self._span(resource)]}
        end, most = gap.end, 0
        for fingerprint in fingerprints:
            if not any(fingerprint in self.chains[name] for name in names):
                continue
            first = max(self._places[span], self._floor(fingerprint, names))
            left = _without(first, end, self._counted_gaps.get(fingerprint, []))
            added = sum(gap.most(fingerprint, low, high, counted) for low, high in left)
            if first < end:
                self._counted_gaps.setdefault(fingerprint, []).append((first, end))
                self.note_last(fingerprint, end - 1)
            self._added[fingerprint] += added
            most = max(most, added)
        self.moved(span, end)
        return most

    def _floor(self, fingerprint: str, names: Collection[str]) -> int:
        """Return the least start of a key among these names; its writes before that are estimated, or none."""
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

    def note_last(self, fingerprint: str, revision: int) -> None:
        """Note that a write under a key is no older than `revision`; it is not counted."""
        self._last[fingerprint] = max(self._last.get(fingerprint, 0), revision)

    # Records.

    @property
    def last(self) -> dict[str, int]:
        """The revision of the last delivered write, by fingerprint; those of earlier observers included."""
        return dict(self._last)

    @property
    def counts(self) -> dict[str, int]:
        """Writes by fingerprint, with those that can't be recorded yet."""
        return dict(self._counted())

    def to_record(self, now: int) -> Observations | None:
        """Return the next version of the observer's record, to write over this one at `now` (seconds since 1970).

        None while a start is unknown, or while the watch has not reached the recorded places again.
        """
        places = {name: self._places[span] for name, span in self._span_of.items()}
        reached = [(name, key) for name in self.chains for key in self.chains[name]]
        is_catching_up = any(
            self.recorded.position(*pair) > self._places[self._span(pair[0])] for pair in (*reached, *self._starts)
        )
        if is_catching_up or self.has_new_pairs or None in self._starts.values():
            return None
        self._recording = {
            pair: [revision for revision in held if revision < self._places[self._span(pair[0])]]
            for pair, held in self._pending.items()
        }
        counts = dict(self._counted(self._recording))
        since = {fingerprint: self.recorded.since.get(fingerprint, now) for fingerprint in counts}
        followed = self.recorded.following(places, self.chains)
        self._recorded_added = Counter(self._added)
        replaced = self.recorded.replacing(places, self.revision)
        return Observations(
            counts=counts,
            followed=followed,
            last=dict(self._last),
            since=since,
            replaced=replaced,
        )

    def saved(self, seen: Observations, revision: int) -> None:
        """Take over the version that `to_record` returned last, stored at `revision`. Keeps writes delivered since."""
        self.recorded, self.revision = seen, revision
        for pair, stored in self._recording.items():
            # By value, not by position: etcd may deliver an earlier revision after a later one.
            left = Counter(self._pending[pair]) - Counter(stored)
            self._pending[pair] = list(left.elements())
        self._added -= self._recorded_added

    def _counted(self, pending: Mapping[Pair, Collection[int]] | None = None) -> Counter[str]:
        counts = Counter(self.recorded.counts)
        for (resource, fingerprint), held in (self._pending if pending is None else pending).items():
            start = self._starts.get((resource, fingerprint), self._begins[self._span(resource)])
            wrote = sum(revision >= start for revision in held) if start is not None else 0
            if wrote:
                counts[fingerprint] += wrote
        counts.update({fingerprint: added for fingerprint, added in self._added.items() if added})
        return counts


def _without(first: int, end: int, covered: Iterable[Interval]) -> list[Interval]:
    """Return the parts of an interval that no other interval covers."""
    left = [(first, end)] if first < end else []
    for low, high in covered:
        left = [
            piece for one, two in left for piece in ((one, min(two, low)), (max(one, high), two)) if piece[0] < piece[1]
        ]
    return left
