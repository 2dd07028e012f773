"""A rotation against a model of a cluster: whatever the order of things, every kube-apiserver can read every object.

The model has files as lists of key names (the first one writes), kube-apiservers that load the file whenever they
like, objects that they write, and a driver that may die between any two of its effects.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.rotation.transition import (
    CampaignOutcome,
    Edit,
    Fact,
    Facts,
    Move,
    Need,
    ScanResult,
    aborted,
    advance,
    may_be_withdrawn,
    prepared,
    withdrawing,
)
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import KeyRef

NOW = "2026-01-01T00:00:00+00:00"
SERVERS = 3
OBJECTS = 4
OLD, NEW = "old", "new"

File = tuple[str, ...]


def hash_of(file: File) -> str:
    return f"sha256:{'+'.join(file)}"


class RotationMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.file: File = (OLD,)
        self.loaded: list[File] = [(OLD,)] * SERVERS
        self.stored = [OLD] * OBJECTS
        self.history: list[tuple[str, ...]] = [tuple(self.stored)]
        self.compacted = 0
        self.overlooked = OBJECTS  # none
        self.rotation = Rotation(
            id="r",
            step=RotationStep.ADD,
            because="asked for",
            entries=(0,),
            resources=("secrets",),
            provider="aesgcm",
            key_name=NEW,
            retired=(KeyRef("aesgcm", OLD, "0" * 16),),
            file=hash_of(self.file),
            prune=True,
        )
        self.seen = Facts(hash_of(self.file))

    # What the cluster does by itself.

    @rule(server=st.integers(0, SERVERS - 1))
    def loads_the_file(self, server: int) -> None:
        self.loaded[server] = self.file

    @rule()
    def all_load_the_file(self) -> None:
        self.loaded = [self.file] * SERVERS

    @rule(server=st.integers(0, SERVERS - 1), place=st.integers(0, OBJECTS - 1))
    def writes(self, server: int, place: int) -> None:
        self._store(place, self.loaded[server][0])

    @rule(place=st.integers(0, OBJECTS))
    def the_next_campaign_overlooks_one(self, place: int) -> None:
        self.overlooked = place

    @rule(keep=st.integers(0, 2))
    def compacts(self, keep: int) -> None:
        self.compacted = max(self.compacted, len(self.history) - 1 - keep)

    def _store(self, place: int, key: str) -> None:
        self.stored[place] = key
        self.history.append(tuple(self.stored))

    # What the driver does, one effect at a time; between any two of them it may die and forget what it saw.

    @rule(effects=st.integers(1, 12))
    def is_driven_and_dies(self, effects: int) -> None:
        self.seen = Facts(hash_of(self.file))
        for _ in range(effects):
            if self.rotation.edited and hash_of(self.file) == self.rotation.file and not self.rotation.held:
                self.file = self._edited()
                self.seen = Facts(hash_of(self.file))
            else:
                self._take_a_step()
            self.every_server_reads_every_object()

    def _take_a_step(self) -> None:
        match advance(self.rotation, self.seen, NOW).action:
            case Move(rotation):
                self.rotation = rotation
                self.seen = Facts(hash_of(self.file))
            case Edit():
                self.rotation = prepared(self.rotation, hash_of(self._edited()), "f" * 16)
            case Need(fact):
                self._gather(fact)
            case _:
                self.seen = Facts(hash_of(self.file))

    def _gather(self, fact: Fact) -> None:
        match fact:
            case Fact.CONVERGENCE:
                converged = all(hash_of(file) == self.rotation.file for file in self.loaded)
                self.seen = replace(self.seen, convergence=Convergence(converged, self.rotation.file, "asked"))
            case Fact.CAMPAIGN:
                for place, key in enumerate(self.stored):
                    if key != self.file[0] and place != self.overlooked:
                        self._store(place, self.file[0])
                self.overlooked = OBJECTS
                self.seen = replace(self.seen, campaign=CampaignOutcome(True, "done"))
            case Fact.SCAN:
                stale = sum(key != self.file[0] for key in self.stored)
                old, new = (sum(key == one for key in self.stored) for one in (OLD, NEW))
                used = sum(NEW in past for past in self.history)
                scan = ScanResult(len(self.history) - 1, stale, old, 0, new, used)
                self.seen = replace(self.seen, scan=scan)
            case Fact.COMPACTED:
                self.seen = replace(self.seen, compacted=self.compacted >= self.rotation.proof_revision)

    def _edited(self) -> File:
        match self.rotation.step:
            case RotationStep.ADD:
                return OLD, NEW
            case RotationStep.PROMOTE:
                return NEW, OLD
            case RotationStep.WITHDRAW:
                return (OLD,)
        return (NEW,)

    @precondition(lambda self: not self.rotation.step.is_end)
    @rule(chance=st.integers(0, 30))
    def is_aborted(self, chance: int) -> None:
        if chance == 0:
            self.rotation = aborted(self.rotation, NOW)

    @precondition(lambda self: may_be_withdrawn(self.rotation))
    @rule(chance=st.integers(0, 5))
    def is_withdrawn(self, chance: int) -> None:
        if chance:
            return
        with suppress(RefusedError):
            self.rotation = withdrawing(self.rotation, hash_of(self.file), NOW)

    # What must hold.

    @invariant()
    def every_server_reads_every_object(self) -> None:
        for file in self.loaded:
            assert set(self.stored) <= set(file)

    @invariant()
    def every_server_reads_what_watches_may_still_show(self) -> None:
        for past in self.history[self.compacted :]:
            for file in self.loaded:
                assert set(past) <= set(file)

    @invariant()
    def the_old_key_is_gone_only_when_nothing_is_under_it(self) -> None:
        if OLD not in self.file:
            assert all(OLD not in past for past in self.history[max(self.compacted, self.rotation.proof_revision) :])

    @invariant()
    def withdrawn_means_that_no_server_knows_the_new_key(self) -> None:
        if self.rotation.is_withdrawn:
            assert self.file == (OLD,)
            assert set(self.stored) == {OLD}

    @invariant()
    def done_means_that_nothing_is_under_the_old_key(self) -> None:
        if self.rotation.step is RotationStep.DONE:
            assert OLD not in self.stored


TestRotationMachine = RotationMachine.TestCase
TestRotationMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


# --------------------------------------------------------------------------------------------------- a straight course


def test_without_disturbance_it_comes_to_its_end() -> None:
    machine = RotationMachine()
    for _ in range(200):
        machine.all_load_the_file()
        machine.compacts(0)
        machine.is_driven_and_dies(5)
    assert machine.rotation.step is RotationStep.DONE
    assert [passed.step for passed in machine.rotation.passed] == [
        RotationStep.ADD,
        RotationStep.SPREAD,
        RotationStep.PROMOTE,
        RotationStep.SWITCH,
        RotationStep.REWRAP,
        RotationStep.PROVE,
        RotationStep.COMPACT,
        RotationStep.PRUNE,
        RotationStep.CONVERGE,
    ]
    assert machine.file == (NEW,)
    assert set(machine.stored) == {NEW}


@pytest.mark.parametrize("step", [RotationStep.SPREAD, RotationStep.PROMOTE])
def test_a_withdrawal_without_disturbance_leads_back(step: RotationStep) -> None:
    machine = RotationMachine()
    while machine.rotation.step is not step:
        machine.all_load_the_file()
        machine.is_driven_and_dies(2)
    machine.is_withdrawn(0)
    for _ in range(20):
        machine.all_load_the_file()
        machine.is_driven_and_dies(5)
    assert machine.rotation.is_withdrawn
    assert machine.file == (OLD,)
    assert machine.loaded == [(OLD,)] * SERVERS


@pytest.mark.parametrize("step", [step for step in RotationStep if not step.is_end])
def test_a_file_that_somebody_edited_holds_the_rotation_at_any_step(step: RotationStep) -> None:
    rotation = replace(RotationMachine().rotation, step=step)
    held = advance(rotation, Facts("sha256:other"), NOW).action
    assert isinstance(held, Move)
    assert "edited outside this rotation" in held.rotation.held
    assert held.rotation.step is step
