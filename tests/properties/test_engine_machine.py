"""The engine against a model, while foreign writers write, answers get lost and the process dies at any write.

The machine owns a registry in memory and a model of it: the plaintext that each key must hold. Each rule either changes
both as a kube-apiserver would, or lets an engine work on a batch. During the engine's work, before any of its writes,
the next `Act` of a drawn list happens. Every engine is new, as after a restart; only the store outlives it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BudgetSettings, PageSettings, Settings
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Item, Outcome, Put, SwapResult
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.providers.cipher import Cipher
from kube_rewrap.worker.providers.links import LocalLink
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from tests.fakes.store import MemoryStore

T = TypeVar("T")

SECRETS = b"/registry/secrets/"
OBJECTS = [SECRETS + name for name in (b"a/1", b"a/2", b"a/3", b"b/1", b"b/2", b"c/1", b"c/2", b"zz")]
UNGOVERNED = [b"/registry/secret/x/1", b"/registry/secrets", b"/registry/secretsfoo/a/1", b"/registry/configmaps/a/1"]
SETTINGS = Settings(page=PageSettings(objects=3), budget=BudgetSettings(block=2))
RUN_SECONDS = 30


def keyed(kind: ProviderType, name: str) -> KeyedProvider:
    return KeyedProvider(kind, (Key(name, SecretBytes(os.urandom(32))),))


PROVIDERS: tuple[Provider, ...] = (
    keyed(ProviderType.AESGCM, "new"),
    keyed(ProviderType.AESCBC, "k:1"),
    keyed(ProviderType.SECRETBOX, "box"),
    keyed(ProviderType.AESGCM, "old"),
    IdentityProvider(),
)
STRANGER = Chain([keyed(ProviderType.AESGCM, "new")])
POISONS = [b"", b"\x00garbage", b"k8s:enc:rot13:v1:k:x", b"k8s:enc:kms:v2:gone:\n\x03", b"k8s:enc:aesgcm:v1:new:short"]


class CrashError(BaseException):
    """The process is gone. Nobody catches it but the machine."""


class Act(Enum):
    """What happens at a write of the engine."""

    PASS = "nothing"
    LOSE = "the write is refused, as if somebody had been faster"
    UNKNOWN = "the write is applied and its answer lost"
    VANISH = "the write gets lost on its way, and nobody says so"
    DIE_BEFORE = "the process dies before the write"
    DIE_AFTER = "the process dies after the write, before it learns of it"


@dataclass(frozen=True)
class Write:
    """What a foreign writer does: `by` None deletes."""

    key: bytes
    by: int | None
    leased: bool


WRITES = st.builds(Write, st.sampled_from(OBJECTS), st.none() | st.integers(0, len(PROVIDERS) - 1), st.booleans())
FAULTS = st.lists(st.sampled_from(Act), min_size=1, max_size=25)
ACTS = st.lists(st.sampled_from(Act) | WRITES, min_size=1, max_size=25)


class FaultyStore(MemoryStore):
    """Asks before each write what happens, and dies after it where it must."""

    def __init__(self) -> None:
        super().__init__(self._fate)
        self.acts: list[Act | Write] = []
        self.machine: EngineMachine | None = None
        self._dies = False
        self._vanishes = False

    def _fate(self, _kind: str, _key: bytes) -> Outcome | None:
        while self.acts:
            act = self.acts.pop(0)
            if isinstance(act, Write):
                assert self.machine is not None
                self.machine.foreign(act)
                continue
            if act is Act.DIE_BEFORE:
                raise CrashError
            self._dies = act is Act.DIE_AFTER
            self._vanishes = act is Act.VANISH
            return {Act.LOSE: Outcome.LOST, Act.VANISH: Outcome.LOST, Act.UNKNOWN: Outcome.UNKNOWN}.get(act)
        return None

    async def swap(self, item: Item, value: bytes, guard: Expect | None = None) -> SwapResult:
        result = await super().swap(item, value, guard)
        return SwapResult(Outcome.UNKNOWN) if self._no_answer() else result

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        result = await super().commit(expects, changes)
        return CommitResult(Outcome.UNKNOWN) if self._no_answer() else result

    def _no_answer(self) -> bool:
        """Whether the write of a moment ago got lost. Nothing was awaited since it was asked about."""
        dies, self._dies = self._dies, False
        vanishes, self._vanishes = self._vanishes, False
        if dies:
            raise CrashError
        return vanishes


class CountingCipher:
    """The primary's cipher, counting how often it really encrypted."""

    def __init__(self, cipher: Cipher, machine: EngineMachine) -> None:
        self.nonce_size = cipher.nonce_size
        self.open = cipher.open
        self._cipher = cipher
        self._machine = machine

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        self._machine.encryptions += 1
        return self._cipher.seal_with(nonce, plaintext, aad)


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = FaultyStore()
        self.store.machine = self
        self.plaintexts: dict[bytes, bytes] = {}
        self.poisons: dict[bytes, bytes] = {}
        self.leases: dict[bytes, int] = {}
        self.ungoverned: list[Item] = []
        self.lease = finished(self.store.grant_lease(60))
        self.encryptions = 0
        self.campaigns = 0
        self.written = 0
        self.finished = True
        self.disturbed = False
        self.chain = Chain(PROVIDERS)
        self.generation = Generation("sha256:0", EncryptionConfiguration(()), "test")

    @initialize(primary=st.integers(0, 3), writes=st.lists(WRITES, max_size=10))
    def configure(self, primary: int, writes: list[Write]) -> None:
        """One of the keyed providers writes; values that it must not touch lie beside the governed range."""
        order = (PROVIDERS[primary], *(one for one in PROVIDERS if one is not PROVIDERS[primary]))
        self.chain = Chain(order)
        entry = ResourceEntry(("secrets",), order)
        self.generation = Generation("sha256:1", EncryptionConfiguration((entry,)), "test")
        for key in UNGOVERNED:
            self.ungoverned.append(self.store.put(key, Chain([PROVIDERS[3]]).seal(self.fresh_plaintext(), key)))
        for write in writes:
            self.foreign(write)
        asyncio.run(self.engine().ledger.first_sight(self.chain.keys))

    # What others do.

    @rule(write=WRITES)
    def write(self, write: Write) -> None:
        self.foreign(write)

    @rule(key=st.sampled_from(OBJECTS), poison=st.sampled_from(POISONS))
    def poison(self, key: bytes, poison: bytes) -> None:
        self.place(key, poison, leased=False)
        self.poisons[key] = poison

    @rule(key=st.sampled_from(OBJECTS), leased=st.booleans())
    def poison_with_another_key_of_the_same_name(self, key: bytes, leased: bool) -> None:
        value = STRANGER.seal(self.fresh_plaintext(), key)
        self.place(key, value, leased=leased)
        self.poisons[key] = value

    # What we do.

    @precondition(lambda self: self.finished)
    @rule()
    def plan(self) -> None:
        self.campaigns += 1
        self.finished = False
        self.disturbed = False
        self.record_batch()

    @precondition(lambda self: not self.finished)
    @rule()
    def run_to_the_end(self) -> None:
        self.work([])
        assert self.finished

    @precondition(lambda self: not self.finished)
    @rule(faults=FAULTS)
    def run_with_faults(self, faults: list[Act]) -> None:
        self.work(faults)

    @precondition(lambda self: not self.finished)
    @rule(acts=ACTS)
    def run_with_faults_among_others(self, acts: list[Act | Write]) -> None:
        self.work(acts)

    # What must hold.

    @invariant()
    def every_plaintext_is_the_models(self) -> None:
        for key, plaintext in self.plaintexts.items():
            item = self.now(key)
            opened = self.chain.open(item.value, key)
            assert isinstance(opened, Opened)
            assert opened.plaintext == plaintext

    @invariant()
    def what_nobody_can_read_is_untouched(self) -> None:
        for key, value in self.poisons.items():
            assert self.now(key).value == value

    @invariant()
    def what_was_deleted_stays_away(self) -> None:
        for key in OBJECTS:
            if key not in self.plaintexts and key not in self.poisons:
                assert finished(self.store.get(key)) is None

    @invariant()
    def leases_are_kept(self) -> None:
        for key, lease in self.leases.items():
            assert self.now(key).lease == lease

    @invariant()
    def ungoverned_keys_are_as_they_were(self) -> None:
        for item in self.ungoverned:
            assert self.now(item.key) == item

    @invariant()
    def the_recorded_budget_covers_every_encryption(self) -> None:
        budgets = asyncio.run(self.engine().ledger.all())
        if self.encryptions:
            assert budgets[self.chain.primary.fingerprint].reserved >= self.encryptions

    def teardown(self) -> None:
        """Without faults, one campaign brings every readable object under the primary and names the rest."""
        if not self.ungoverned:
            return
        self.campaigns += 1
        self.record_batch()
        report = self.work([])
        assert report is not None
        assert report.objects == len(self.plaintexts) + len(self.poisons)
        assert report.quarantined == len(self.poisons)
        assert report.objects == report.rewritten + report.current + report.gone + report.quarantined
        self.require_all_current()
        assert asyncio.run(self.quarantined()) == set(self.poisons)

    # How.

    @property
    def batch(self) -> BatchSpec:
        return BatchSpec(
            campaign=str(self.campaigns),
            number=0,
            resource="secrets",
            range=KeyRange.of_prefix(SECRETS),
            generation=self.generation.hash,
        )

    def record_batch(self) -> None:
        finished(Checkpoints(self.store, self.engine().keyspace).save(Stored(Checkpoint(spec=self.batch))))

    def engine(self) -> Engine:
        """A process' own engine."""
        engine = Engine(self.store, SETTINGS, self.generation, LocalPace(0))
        if self.ungoverned:
            chain = engine.chains["secrets"]
            first, *rest = chain._links
            assert isinstance(first, LocalLink)
            chain._links = (replace(first, cipher=CountingCipher(first.cipher, self)), *rest)
        return engine

    def work(self, acts: Sequence[Act | Write]) -> BatchReport | None:
        """Let a new engine work on the batch; None when it did not come to its end."""
        self.store.acts = list(acts)
        try:
            report = asyncio.run(
                asyncio.wait_for(self.engine().run(self.batch, None, Brake()), RUN_SECONDS), debug=True
            )
        except WorkerError:
            assert acts, "without a fault nothing stops a batch"
            return None
        except BaseException as error:
            if not is_crash(error):
                raise
            return None
        finally:
            self.store.acts = []
        self.finished = True
        if not self.disturbed:
            self.require_all_current()
        return report

    def require_all_current(self) -> None:
        """Every object that can be read is under the primary, however often the work was interrupted."""
        for key in self.plaintexts:
            opened = self.chain.open(self.now(key).value, key)
            assert isinstance(opened, Opened)
            assert opened.is_primary

    async def quarantined(self) -> set[bytes]:
        quarantine = QuarantineRecords(self.store, self.engine().keyspace, self.batch.campaign)
        return {one.key async for one in quarantine.all()}

    def foreign(self, write: Write) -> None:
        """Write or delete as a kube-apiserver would, and know it."""
        if write.by is None:
            self.store.delete(write.key)
            self.forget(write.key)
            return
        plaintext = self.fresh_plaintext()
        self.place(write.key, Chain([PROVIDERS[write.by]]).seal(plaintext, write.key), leased=write.leased)
        self.plaintexts[write.key] = plaintext

    def place(self, key: bytes, value: bytes, *, leased: bool) -> None:
        self.forget(key)
        self.leases[key] = self.lease if leased else 0
        self.store.put(key, value, self.leases[key])

    def forget(self, key: bytes) -> None:
        self.disturbed = True
        for known in (self.plaintexts, self.poisons, self.leases):
            known.pop(key, None)

    def fresh_plaintext(self) -> bytes:
        self.written += 1
        return b'{"apiVersion":"v1","kind":"Secret","metadata":{"resourceVersion":"%d"}}' % self.written

    def now(self, key: bytes) -> Item:
        item = finished(self.store.get(key))
        assert item is not None
        return item


def finished(work: Coroutine[object, None, T]) -> T:
    """Run what awaits nothing but the store in memory, which only gives way; far quicker than an event loop."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            value: T = end.value
            return value


def is_crash(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(CrashError) is not None
    return isinstance(error, CrashError)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = hypothesis.settings(max_examples=60, stateful_step_count=25, deadline=None)
