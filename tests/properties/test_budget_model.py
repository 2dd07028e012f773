"""The arithmetic of write budgets against a model that counts ciphertexts. No input or output.

Processes of ours seal, swap, settle early, late or never; others write and delete; observers come, go, lag and are
replaced, under other configurations; keys and resources come to each other; etcd is compacted, and restored. Then:

1. as of where the watch is, no key has made more ciphertexts than are used;
2. what is used is at most that, and what is open: tokens that are left, swaps that are not settled, or not seen, and
   what crashes and gaps cost, which errs upwards and is counted here one by one.

What a key made before its first sight is nobody's knowledge: the estimate stands for it, on both sides.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kube_rewrap.scheduler.keys.counting import Counting, Pair
from kube_rewrap.worker.records.budget import Budget, Landed, Own
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.observed import Observations
from tests.properties.budget_world import (
    BLOCK,
    CHAINS,
    KEYS,
    LIMIT,
    NAMES,
    RESOURCES,
    Chains,
    Event,
    Object,
    Process,
    Watching,
    World,
    chain_of,
)


class Budgets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.chains: Chains = {}
        self.counted: Chains = {}
        """Under which the observer counts: the present one may be another by now."""
        self.processes: list[Process] = []
        self.watching: Watching | None = None
        self.sealed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        """What is in the truth and nobody can know, less what stands for it: from before first sights, and restores."""
        self.wasted: Counter[str] = Counter()
        """What crashes and gaps cost."""
        self.saved: World | None = None

    @initialize(chains=CHAINS)
    def begin(self, chains: Chains) -> None:
        self.configure(chains)
        self.look()

    # What others do.

    @rule(resource=st.sampled_from(RESOURCES), name=NAMES, pick=st.integers(0, 9), times=st.integers(1, 5))
    def others_write(self, resource: str, name: int, pick: int, times: int) -> None:
        """Mostly with a key that the configuration has for it."""
        chain = (*chain_of(self.chains, resource) * 2, *KEYS)
        key = chain[pick % len(chain)]
        if key != "made" or key in self.world.budgets:
            for _ in range(times):
                self.world.put(resource, name, key, ours=False)

    @rule(resource=st.sampled_from((*RESOURCES, "pods")), names=st.sets(NAMES))
    def others_delete(self, resource: str, names: set[int]) -> None:
        """Some of them; none named: all."""
        for name in names or range(4):
            if self.world.objects.pop((resource, name), None):
                self.world.revision += 1

    @rule(name=NAMES, times=st.integers(1, 9))
    def others_write_elsewhere(self, name: int, times: int) -> None:
        for _ in range(times):
            self.world.write("pods", name, "")

    @rule()
    def compact(self) -> None:
        self.world.compacted, self.world.compacted_objects = self.world.revision, dict(self.world.objects)

    # What we do.

    @rule(chains=CHAINS)
    def configure(self, chains: Chains) -> None:
        if "made" in str(chains) and "made" not in self.world.budgets:
            self.world.budgets["made"] = Budget(fingerprint="made", provider="aesgcm", born=self.world.revision)
            self.world.revision += 1
        self.chains = chains

    def there(self) -> set[str]:
        """What is governed, and has objects, or is named."""
        found = {resource for resource, _ in self.world.objects} & set(RESOURCES)
        return {name for name in found | set(self.chains) if "*" not in name}

    @rule()
    def look(self) -> None:
        """A scan, and what it tells of keys, under the present configuration."""
        self.look_at((), ())

    def look_at(self, again: Iterable[Pair], named: Iterable[str]) -> None:
        """Look at what is there, and at what is named: an observer saw objects in it a moment ago."""
        world = self.world
        there = self.there() | set(named)
        versions: dict[str, dict[str, int]] = {}
        for resource in there:
            sums = versions[resource] = dict.fromkeys(chain_of(self.chains, resource), 0)
            for (where, _), one in world.objects.items():
                if where == resource and one.key in sums:
                    sums[one.key] += one.version
        estimate = Estimate(world.revision, {name: sums for name, sums in versions.items() if sums})
        swaps = Counter[str]()
        for budget in world.budgets.values():
            swaps.update({resource: own.count for resource, own in budget.own.items()})
        for key in sorted({key for keys in self.chains.values() for key in keys}):
            before = world.budgets.get(key, Budget(fingerprint=key, provider="aesgcm"))
            anew = [resource for resource, name in again if name == key]
            after = before.sighted(estimate, world.seen, swaps, anew)
            for resource, sight in (after.sights or {}).items():
                if (before.sights or {}).get(resource) != sight:
                    first = before.begins(resource) or 0
                    others = sum(first <= one.revision for one in self.of(key, resource) if not one.ours)
                    self.unknown[key] += others
                    # Swaps of ours that lie before it are not subtracted any more from what is seen.
                    self.wasted[key] += before.own.get(resource, Own()).count
            at_first = [
                under
                for resource, under in estimate.under(key).items()
                if resource not in (before.sights or {}) and not before.born and not world.seen.position(resource, key)
            ]
            assert after.estimated - before.estimated >= sum(at_first), (
                f"{key}: a first sight is no part of its estimate"
            )
            self.unknown[key] -= after.estimated - before.estimated
            world.budgets[key] = after

    @rule()
    def start_a_process(self) -> None:
        self.look()
        if len(self.processes) < 3:
            self.processes.append(Process(self.chains))

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), resource=st.sampled_from(RESOURCES), times=st.integers(1, 6))
    def rewrap(self, data: st.DataObject, resource: str, times: int) -> None:
        """Seal and swap; a swap may be lost."""
        process = data.draw(st.sampled_from(self.processes))
        chain = chain_of(process.chains, resource)
        if not chain or self.world.budgets[chain[0]].is_to_see(resource, self.world.seen):
            return
        key = chain[0]
        for _ in range(times):
            if not process.left[key]:
                self.settle_process(process)
                budget, granted = self.world.budget(key).reserving(BLOCK, LIMIT)
                self.world.budgets[key] = budget
                self.world.revision += 1
                process.left[key] += granted
                if not granted:
                    return
            process.left[key] -= 1
            self.sealed[key] += 1
            if data.draw(st.booleans()):
                at = self.world.put(resource, data.draw(st.integers(0, 3)), key, ours=True)
                before = process.landed.get((resource, key))
                process.landed[resource, key] = before + Landed(1, at, at) if before else Landed(1, at, at)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.settle_process(data.draw(st.sampled_from(self.processes)))

    def settle_process(self, process: Process) -> None:
        for pair, landed in process.landed.items():
            self.land(pair, landed)
        process.landed = {}

    def land(self, pair: Pair, landed: Landed) -> None:
        resource, key = pair
        before = self.world.budgets[key]
        after = before.landing(resource, landed, self.world.seen)
        recorded = sum(own.count for own in after.own.values()) - sum(own.count for own in before.own.values())
        self.wasted[key] += landed.count - recorded
        self.world.budgets[key] = after
        self.world.revision += 1

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def send_what_landed_the_long_way(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.processes))
        process.late += process.landed.items()
        process.landed = {}

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.processes))
        if process.late:
            self.land(*process.late.pop(data.draw(st.integers(0, len(process.late) - 1))))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from(self.processes))
        self.processes.remove(process)
        for key in KEYS:
            self.wasted[key] += process.open(key)

    # Observers.

    @rule()
    def start_an_observer(self) -> None:
        world = self.world
        names = tuple(self.chains)
        spans: list[tuple[str, ...]] = [names] if "*.*" in names else [names[at : at + 1] for at in range(len(names))]
        counting = Counting(world.seen, world.seen_at, self.chains, spans, world.revision + 1)
        pairs = [(one, key) for one in sorted(self.there()) for key in chain_of(self.chains, one)]
        unseen = counting.find_starts(pairs, world.budgets)
        again = [
            pair
            for pair, start in counting.starts().items()
            if counting.is_first(pair) and start <= world.revision and start < world.compacted
        ]
        counting.discard_starts(again)
        begins = counting.begin()
        resources: list[tuple[str, ...]] = [RESOURCES] if "*.*" in self.chains else list(spans)
        self.watching = Watching(counting, resources, [*unseen, *again], again, min(begins))
        self.counted = self.chains

    @precondition(lambda self: self.watching)
    @rule()
    def the_observer_dies(self) -> None:
        self.watching = None

    @precondition(lambda self: self.watching and self.watching.unseen)
    @rule()
    def the_observer_looks(self) -> None:
        assert self.watching
        now, self.chains = self.chains, self.counted
        self.look_at(self.watching.again, {resource for resource, _ in self.watching.unseen})
        self.chains = now
        self.watching.counting.start_without_estimate(
            self.watching.counting.find_starts(self.watching.unseen, self.world.budgets)
        )
        self.watching.unseen = []

    @precondition(lambda self: self.watching)
    @rule(data=st.data(), revisions=st.integers(1, 30))
    def etcd_delivers(self, data: st.DataObject, revisions: int) -> None:
        assert self.watching
        self.deliver(self.watching, data.draw(st.integers(0, len(self.watching.spans) - 1)), revisions, data)

    @precondition(lambda self: self.watching)
    @rule(data=st.data())
    def etcd_delivers_everything(self, data: st.DataObject) -> None:
        assert self.watching
        for span in range(len(self.watching.spans)):
            self.deliver(self.watching, span, 10**6, data)
            self.deliver(self.watching, span, 10**6, data)

    def deliver(self, watching: Watching, span: int, revisions: int, data: st.DataObject) -> None:
        counting, world = watching.counting, self.world
        first = counting.place(span)
        if first < world.compacted:
            self.tear(watching, span, data)
            return
        self.deliver_before(watching, span, min(first + revisions, world.revision + 1))

    def deliver_before(self, watching: Watching, span: int, end: int) -> None:
        counting, world = watching.counting, self.world
        first = counting.place(span)
        for one in world.log:
            is_here = first <= one.revision < end and one.resource in watching.spans[span]
            if is_here and one.key in chain_of(self.counted, one.resource):
                counting.wrote(one.resource, one.key, one.revision)
        counting.moved(span, end)

    def tear(self, watching: Watching, span: int, data: st.DataObject) -> None:
        """A gap. What is left of it is what etcd still has, as of the compaction or as of now."""
        counting, world = watching.counting, self.world
        left = world.compacted_objects if data.draw(st.booleans()) else world.objects
        before = Counter(counting.counts)
        counting.count_gap(span, self.gap(min(counting.places), left), KEYS)
        for key, count in (Counter(counting.counts) - before).items():
            self.wasted[key] += count

    def gap(self, first: int, left: dict[tuple[str, int], Object]) -> Gap:
        end = self.world.compacted
        known = {where: one for where, one in left.items() if first <= one.modified < end}
        keys = {one.modified: frozenset({one.key} - {""}) for one in known.values()}
        keys |= dict.fromkeys(self.world.seen.replaced, frozenset())
        resources = {one.modified: name for (name, _), one in known.items() if chain_of(self.counted, name) and one.key}
        unencrypted = [
            Landed(one.version - 1, one.created, one.modified - 1)
            for one in known.values()
            if not one.key and one.version > 1 and one.created >= first
        ]
        return Gap(first=first, end=end, keys=keys, resources=resources, unencrypted=tuple(unencrypted))

    @precondition(lambda self: self.watching)
    @rule()
    def the_observer_records(self) -> None:
        assert self.watching
        counting = self.watching.counting
        if counting.has_new_pairs:
            counting.start_new_pairs(self.world.budgets)
        seen = counting.to_record(0)
        if seen is not None:
            self.world.revision += 1
            before, self.world.seen, self.world.seen_at = self.world.seen, seen, self.world.revision
            counting.saved(seen, self.world.revision)
            self.note_what_came_before(before, self.watching.begin)

    def note_what_came_before(self, before: Observations, begin: int) -> None:
        """What had no object when a watch on it began for the first time may have had some, once."""
        for key, budget in self.world.budgets.items():
            for resource in RESOURCES:
                is_new = not before.position(resource, key) and self.world.seen.position(resource, key)
                is_sighted = resource in (budget.sights or {})
                if is_new and not is_sighted and (not budget.born or "*.*" in (budget.sights or {})):
                    self.unknown[key] += sum(one.revision < begin for one in self.of(key, resource) if not one.ours)

    # What is common, in one step: else a random walk seldom comes there.

    @rule(data=st.data())
    def an_observer_works(self, data: st.DataObject) -> None:
        self.work(data)

    @rule(data=st.data(), chains=CHAINS, resource=st.sampled_from(RESOURCES), come_on=st.integers(1, 8))
    def the_file_changes_before_the_observer_does(
        self, data: st.DataObject, chains: Chains, resource: str, come_on: int
    ) -> None:
        self.work(data)
        self.configure(chains)
        self.look()
        self.others_write(resource, 0, 0, 5)
        self.work(data)
        self.start_an_observer()
        self.etcd_delivers(data, come_on)
        self.the_observer_records()

    @rule(data=st.data(), resource=st.sampled_from(RESOURCES), times=st.integers(2, 4), back=st.integers(0, 4))
    def the_watch_stops_in_the_middle_of_a_run(self, data: st.DataObject, resource: str, times: int, back: int) -> None:
        self.others_write(resource, 0, 0, 4)
        self.a_run_of_ours(data, resource, times, settled=True)
        self.start_an_observer()
        assert self.watching
        if not self.watching.unseen and self.watching.begin >= self.world.compacted:
            for span in range(len(self.watching.spans)):
                self.deliver_before(self.watching, span, max(self.watching.begin, self.world.revision + 1 - back))
            self.the_observer_records()

    @rule(data=st.data(), resource=st.sampled_from(RESOURCES), settled=st.booleans())
    def etcd_forgets_before_anybody_observes(self, data: st.DataObject, resource: str, settled: bool) -> None:
        self.watching = None
        self.a_run_of_ours(data, resource, 6, settled)
        self.others_write_elsewhere(0, 1)
        self.compact()
        self.work(data)
        self.others_write(resource, 0, 0, 5)
        self.work(data)

    @rule(data=st.data(), resource=st.sampled_from(RESOURCES), key=st.sampled_from(KEYS))
    def what_was_looked_at_is_gone_when_somebody_observes(self, data: st.DataObject, resource: str, key: str) -> None:
        self.watching = None
        self.configure({"*.*": (key,)})
        self.others_write(resource, 0, 0, 2)
        self.look()
        self.others_write(resource, 0, 0, 3)
        self.others_delete(resource, set())
        self.work(data)

    def work(self, data: st.DataObject) -> None:
        if not self.watching:
            self.start_an_observer()
        assert self.watching
        if self.watching.unseen:
            self.the_observer_looks()
        self.etcd_delivers_everything(data)
        self.the_observer_records()

    @rule(data=st.data(), resource=st.sampled_from(RESOURCES), times=st.integers(1, 12), settled=st.booleans())
    def a_run_of_ours(self, data: st.DataObject, resource: str, times: int, settled: bool) -> None:
        self.start_a_process()
        self.rewrap(data, resource, times)
        if settled:
            self.settle_process(self.processes[-1])

    # Backups.

    @rule()
    def save(self) -> None:
        self.saved = copy.deepcopy(self.world)

    @precondition(lambda self: self.saved)
    @rule()
    def restore_and_accept(self) -> None:
        """What a restore costs is not known; from then on all is as before."""
        assert self.saved
        self.world, self.watching, self.processes = copy.deepcopy(self.saved), None, []
        self.unknown = Counter(self.sealed)
        for key, budget in self.world.budgets.items():
            self.unknown[key] += self.truth(key) - self.world.budget(key).used + self.excess(key)
            self.wasted[key] += sum(one.ours for one in self.world.log if one.key == key)
            assert replace(budget, restored=True).reserving(1, LIMIT)[1] == 0

    def excess(self, key: str) -> int:
        """By how much the use on record falls when the watch has passed all our swaps.

        The record has intervals of revisions, so swaps that the watch has passed may not be subtracted yet.
        """
        left = 0
        for resource, own in self.world.budgets[key].own.items():
            position = self.world.seen.position(resource, key)
            ahead = sum(one.revision >= position for one in self.of(key, resource) if one.ours)
            left += max(0, own.count - own.before(position) - ahead)
        return left

    # What must hold.

    def of(self, key: str, resource: str) -> Iterator[Event]:
        return (one for one in self.world.log if (one.key, one.resource) == (key, resource))

    def truth(self, key: str) -> int:
        """Ciphertexts under a key: all of ours, and others' as far as the watch has come."""
        seen, budget = self.world.seen, self.world.budgets[key]
        written = sum(
            1
            for resource in RESOURCES
            for one in self.of(key, resource)
            if not one.ours
            and (
                one.revision < seen.position(resource, key)
                or one.revision < (((budget.sights or {}).get(resource)) or _NOTHING).revision + 1
            )
        )
        return self.sealed[key] + written - self.unknown[key]

    @invariant()
    def nothing_is_used_that_is_not_counted_and_little_more(self) -> None:
        for key in self.world.budgets:
            budget, truth = self.world.budget(key), self.truth(key)
            left = sum(process.left[key] for process in self.processes)
            assert truth + left <= budget.used, f"{key}: {truth} ciphertexts, {left} tokens, {budget.used} used"
            unsettled = sum(process.open(key) for process in self.processes)
            ours = [(own, self.world.seen.position(name, key)) for name, own in budget.own.items()]
            unseen = sum(own.count - own.before(position) for own, position in ours)
            most = truth + unsettled + unseen + self.wasted[key]
            assert budget.used <= most, f"{key}: {truth} ciphertexts, {budget.used} used"


@dataclass
class _Nothing:
    revision: int = -1


_NOTHING = _Nothing()


def run(examples: int, steps: int) -> None:
    checked = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Budgets, settings=checked)


@pytest.mark.timeout(100)
def test_used_is_never_below_the_truth_and_little_above_it() -> None:
    run(300, 30)


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
def test_used_is_never_below_the_truth_and_little_above_it_for_long() -> None:
    run(3_000, 60)
