"""The only interface to code that decrypts: open an engine, run batches, take inventories.

An engine belongs to one generation of the configuration, one process and one event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.chains import Chains, describe
from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.data_keys import DataKeys, NoPlugins, PatientKeys, fetch_again, refused
from kube_rewrap.worker.errors import (
    CompactedError,
    FencedError,
    KmsRefusedError,
    KmsTargetError,
    KmsUnavailableError,
    RecordError,
    TooLargeError,
    WorkerError,
)
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Item, Store
from kube_rewrap.worker.growth import growth_by, trial_growth, trial_key
from kube_rewrap.worker.inventory import last_stamps, last_writes, take_inventory, take_slice
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.counts import PluginCounts
from kube_rewrap.worker.kms.pace import Paces
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.plugin_trials import local_paces
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace, Pace
from kube_rewrap.worker.rate.pressure import WindowSize
from kube_rewrap.worker.rate.window import Window
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.budget import Landed
from kube_rewrap.worker.records.campaign import NO_QUARANTINE_LIMIT, QuarantineLimit
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import BatchRecord, Checkpoints
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.generations import Generations, late_plaintext
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.try_counter import TryCounter
from kube_rewrap.worker.rewrap.batch import BatchTools, run_batch
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.rewrap.swap import Swapper
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason, Verdict
from kube_rewrap.worker.wrapped import (
    DataKey,
    Plugin,
    WrappedKey,
    fingerprint_of,
)

_SAMPLES = 8
"""Wrapped keys with which a plugin is tried."""

Locate = Callable[[bytes], tuple[str, bytes] | None]
"""Returns the governed resource of an etcd key, and its storage path; None if there is none."""


@dataclass(frozen=True, slots=True)
class Examined:
    """One object as `inspect` shows it. The verdict of a stale object holds its plaintext: never print it whole."""

    item: Item
    verdict: Verdict
    wrapped: WrappedKey | None = None
    """The wrapped key of a value under a KMS provider; the first one where several providers match."""
    plugin_text: str = ""
    """What the plugin says of a key that it does not unwrap, cut and escaped; for this one command."""


class Engine:
    """See the module's docstring. Made by `open_engine`."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        generation: Generation,
        pace: Pace,
        data_keys: DataKeys | None = None,
        *,
        missing: Sequence[WorkerError] = (),
    ) -> None:
        """`data_keys` asks the KMS plugins; None = values under KMS providers are neither read nor written.

        `missing`: why the generation has no targets, though it writes with KMS; one error for each plugin.
        """
        self.store = store
        self.keyspace = Keyspace(settings.keyspace.state_prefix)
        self.ledger = Ledger(store, self.keyspace, settings.budget)
        self.chains = Chains(generation, None if data_keys is None else generation.targets)
        self._missing = missing
        self.generation = generation
        self._layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
        self._settings = settings
        self.slice_seconds = settings.service.slice
        self._pace = pace
        self._has_kms = data_keys is not None
        self._data_keys = data_keys or NoPlugins()
        self._sizer = PageSizer(settings.page)
        self._window = Window(WindowSize(ceiling=settings.pace.max_window))
        self.is_refuted = False
        """Whether a plugin named another KEK than the generation's while a batch was at work."""

    async def run(
        self,
        spec: BatchSpec,
        guard: Expect | None,
        brake: Brake,
        *,
        allow_plaintext: bool = False,
        quarantine_limit: QuarantineLimit = NO_QUARANTINE_LIMIT,
        kek_since: int = 0,
        record: BatchRecord | None = None,
    ) -> BatchReport:
        """Rewrap one batch until it is done or the brake is pulled.

        `guard` fences every write of a record or an object. `record` is the batch's record, if the caller has read it.
        Raises FencedError when the batch belongs to another generation than this engine: writing with the wrong
        primary is worse than waiting. Raises RecordError for a batch whose range reaches beyond its resource,
        UnsupportedPrimaryError for a primary that this tool can't write with, KmsRefusedError for a KMS primary
        without a target key id, KmsTargetError when the plugin names another KEK than the target, and the errors of
        `DataKeys`.
        """
        if spec.generation != self.generation.hash:
            raise FencedError(
                f"batch {spec.number} of {spec.campaign} is for the configuration {spec.generation}, "
                f"this process holds {self.generation.hash}"
            )
        self._require_governed(spec)
        chain = self.chains[spec.resource]
        chain.require_writable()
        guards = [guard] if guard is not None else []
        checkpoints = Checkpoints(self.store, self.keyspace, guards)
        tools = BatchTools(
            store=self.store,
            swapper=Swapper(
                self.store,
                chain,
                self.ledger,
                self._pace,
                self._window,
                resource=spec.resource,
                guard=guard,
                allow_plaintext=allow_plaintext,
                since=quarantine_limit.since,
                tries=None
                if quarantine_limit.most is None
                else TryCounter(self.store, self.keyspace, quarantine_limit.most),
                data_keys=self._data_keys,
                kek_since=kek_since,
            ),
            ledger=self.ledger,
            record=record or BatchRecord(checkpoints, spec.campaign, spec.number),
            quarantine=QuarantineRecords(self.store, self.keyspace, spec.campaign, guards),
            window=self._window,
            brake=brake,
            sizer=self._sizer,
        )
        await self._learn_database()
        try:
            return await run_batch(spec, tools)
        except KmsTargetError:
            self.is_refuted = True
            raise

    def require_aimed(self) -> None:
        """Raise an error while it is not known which KEK a KMS provider writes with.

        KmsRefusedError if an operator has to act on one of the plugins, else KmsUnavailableError.
        """
        if not self._missing:
            return
        is_refused = any(isinstance(one, KmsRefusedError) for one in self._missing)
        kind = KmsRefusedError if is_refused else KmsUnavailableError
        raise kind(f"the KEK to write with is not known: {'; '.join(map(str, self._missing))}")

    async def is_aimed(self) -> bool:
        """Whether the plugins still name the KEKs of this generation, as far as they name any."""
        if not isinstance(self._data_keys, PluginKeys) or not self.generation.kms_writers:
            return True
        named = await self._data_keys.key_ids(self.generation)
        if self._missing:
            return any(isinstance(answer, WorkerError) for answer in named.values())
        targets = self.generation.targets
        return all(isinstance(answer, WorkerError) or answer == targets[name] for name, answer in named.items())

    def kms_counts(self) -> tuple[PluginCounts, ...]:
        """Return what was counted of the calls to KMS plugins; () without any."""
        return self._data_keys.counts() if isinstance(self._data_keys, PluginKeys) else ()

    def _require_governed(self, spec: BatchSpec) -> None:
        """Raise RecordError unless the batch's range lies inside its resource, and that is governed.

        Anyone who can write to etcd can forge a record, so a record alone allows no write anywhere else.
        """
        if not self._governs(spec.resource, spec.range):
            raise RecordError(
                f"batch {spec.number} of {spec.campaign} is damaged: its range does not lie inside a resource that the "
                "configuration governs; nothing of it is read or written"
            )

    def _governs(self, resource: str, keys: KeyRange) -> bool:
        """Whether the range lies inside this resource, and the configuration governs it."""
        name = GroupResource.parse(resource)
        is_governed = self.generation.configuration.providers_for(name) is not None
        return is_governed and self._layout.owns(name, keys.start, keys.end)

    @property
    def window(self) -> int:
        """Swaps that may be in flight now."""
        return self._window.limit

    async def limit_window(self, swaps: int) -> None:
        """Set the most swaps in flight, at least 1; returns when no more are."""
        await self._window.resize(swaps)

    async def load_proven_resources(self) -> None:
        """With `plaintext.quarantine_late`, quarantine plaintext of resources that were proven complete.

        Also replaces seeds from before a rotation of a KEK that nothing but a campaign's record shows: see `Writer`.
        """
        campaigns = Campaigns(self.store, self.keyspace)
        if self._settings.plaintext.quarantine_late:
            known = [stored.value for stored in await campaigns.all()]
            in_force = await Generations(self.store, self.keyspace).load()
            self.chains.quarantine_late(late_plaintext(in_force, known, describe(self.generation)))
        if isinstance(self._data_keys, PluginKeys) and self.generation.kms_writers:
            self._data_keys.make_seeds_since(await campaigns.kek_since())

    async def growth(self, resource: str) -> int:
        """Return by how many bytes a stored value is larger than its plaintext under a KMS primary; 0 without one.

        Measured by one trial seal with a data key of the plugin. Raises the errors of `DataKeys`.
        """
        chain = self.chains[resource]
        return await trial_growth(chain, self._data_keys)

    async def expected_growth(self, ranges: Sequence[ResourceRange], revision: int) -> int:
        """Return `growth` of the resource of these ranges, as it is expected: no seed is made.

        That of the first value under the primary KMS provider there, under whichever KEK. Where there is none, its
        plugin is asked to wrap one random key, which is not kept. Raises the errors of `GuardedPlugin.encrypt`.
        """
        primary = self.chains[ranges[0].resource].kms_primary
        if primary is None or not isinstance(self._data_keys, PluginKeys):
            return 0
        seen = await self._seen_under(primary[0], ranges, revision)
        return growth_by(DataKey(seen, trial_key()) if seen else await self._data_keys.trial_key(primary[0]))

    async def _seen_under(self, plugin: Plugin, ranges: Sequence[ResourceRange], revision: int) -> WrappedKey | None:
        """Return the wrapped key of the first value under the provider of a plugin."""
        for one in ranges:
            chain = self.chains[one.resource]
            async with aclosing(
                read_pages(self.store, one.range, self._sizer, revision=revision, borders=one.borders)
            ) as pages:
                async for page in pages:
                    for wrapped in chain.all_wanted(item.value for item in page.items):
                        if wrapped.plugin == plugin:
                            return wrapped
        return None

    async def inventory(
        self,
        ranges: Iterable[ResourceRange],
        revision: int,
        *,
        kek_since: int = 0,
        peeks: bool = False,
        by_namespace: bool = False,
    ) -> Inventory:
        """Count the objects in the ranges by the key that opens them, at a revision; as `take_inventory` does.

        Waits some minutes where a plugin fails on some keys and unwraps others, instead of raising KmsSourceError.
        """
        await self._learn_database()
        return await take_inventory(
            self.store,
            ranges,
            self.chains,
            self._sizer,
            revision,
            data_keys=PatientKeys(self._data_keys),
            kek_since=kek_since,
            peeks=peeks and self._has_kms,
            apart=await self.keks_on_record(),
            by_namespace=by_namespace,
        )

    async def keks_on_record(self) -> frozenset[str]:
        """Return the fingerprints of all KEKs on record, of any provider."""
        if not self._has_kms:
            return frozenset()
        keks = [stored.value for stored in await Keks(self.store, self.keyspace).all()]
        return frozenset(fingerprint_of(one) for kek in keks for one in (kek.target, kek.named, *kek.former) if one)

    async def slice_of_inventory(
        self, wanted: ResourceRange, revision: int, is_over: Callable[[], bool], *, kek_since: int = 0
    ) -> tuple[Inventory, bytes | None]:
        """Count as `inventory`, in one range, until `is_over`; see `take_slice`."""
        await self._learn_database()
        return await take_slice(
            self.store,
            wanted,
            self.chains,
            self._sizer,
            revision=revision,
            is_over=is_over,
            data_keys=self._data_keys,
            kek_since=kek_since,
            apart=await self.keks_on_record(),
        )

    async def _learn_database(self) -> None:
        """Ask how large etcd's database is, which bounds the answers. Without it, answers begin small."""
        now = asyncio.get_running_loop().time()
        if not self._sizer.is_database_known(now):
            with suppress(WorkerError):
                self._sizer.learn_database(max(member.db_size_in_use for member in await self.store.members()), now)

    async def wrapped_keys(self, ranges: Iterable[ResourceRange]) -> tuple[WrappedKey, ...]:
        """Return wrapped keys of the first page of each range, `_SAMPLES` of each plugin at most.

        `ranges` come from records, which may be forged: one beyond its resource is left out, as is one whose first page
        is too large.
        """
        found: dict[Plugin, dict[WrappedKey, None]] = defaultdict(dict)
        for one in ranges:
            if not self._governs(one.resource, one.range):
                continue
            with suppress(TooLargeError):
                async with aclosing(read_pages(self.store, one.range, self._sizer)) as pages:
                    page = await anext(pages, None)
                for wrapped in self.chains[one.resource].all_wanted(item.value for item in page.items) if page else ():
                    if len(found[wrapped.plugin]) < _SAMPLES:
                        found[wrapped.plugin][wrapped] = None
        return tuple(wrapped for keys in found.values() for wrapped in keys)

    async def gap(self, locate: Locate, first: int, end: int) -> Gap:
        """Return what etcd still shows of the revisions from `first` to before `end`, which it has compacted away.

        Read at revision `end`, which shows all that the compaction left; at the newest revision if etcd has compacted
        once more since.
        """
        try:
            return await self._gap(locate, first, end, end)
        except CompactedError:
            return await self._gap(locate, first, end, 0)

    async def _gap(self, locate: Locate, first: int, end: int, revision: int) -> Gap:
        keys: dict[int, frozenset[str]] = {}
        resources: dict[int, str] = {}
        unencrypted: list[Landed] = []
        async for stamps in last_stamps(self.store, self.keyspace.everything, first, end, revision=revision):
            made = (at for one in stamps for at in (one.created, one.modified))
            keys.update(dict.fromkeys((at for at in made if at >= first), frozenset()))
        async for stamps in last_stamps(
            self.store, KeyRange.of_prefix(self._layout.root), first, end, revision=revision
        ):
            governed = {one.key: found[0] for one in stamps if (found := locate(one.key)) is not None}
            for one in stamps:
                if one.key not in governed:
                    keys[one.modified] = frozenset()
                    if one.version > 1 and one.created >= first:
                        unencrypted.append(Landed(one.version - 1, one.created, one.modified - 1))
            encrypted = [one for one in stamps if one.key in governed]
            resources.update({one.modified: governed[one.key] for one in encrypted})
            if encrypted:
                async for item in last_writes(self.store, encrypted, self._sizer, revision=revision):
                    opened = self.recognise(item, governed[item.key])
                    claimed = opened.claimed if isinstance(opened, Quarantine) else (opened,)
                    keys[item.mod_revision] = frozenset(key.fingerprint for key in claimed)
        return Gap(first=first, end=end, keys=keys, resources=resources, unencrypted=tuple(unencrypted))

    async def is_compacted(self, revision: int) -> bool:
        """Return whether etcd has compacted a revision away, so that it can't be read.

        The probe reads our own records, which this process may always read.
        """
        try:
            await self.store.page(self.keyspace.campaigns, 1, revision=max(1, revision))
        except CompactedError:
            return True
        return False

    async def examine(self, key: bytes, resource: str) -> Examined | None:
        """Return one object and its verdict; None if it does not exist. Raises the errors of `DataKeys.fetch`.

        As a batch does, asks once more for the key of a value that did not open.
        """
        item, chain = await self.store.get(key), self.chains[resource]
        if item is None:
            return None
        wanted = chain.wanted(item.value)
        unwrapped = await self._data_keys.fetch(wanted)
        verdict = decide(item.value, item.key, chain, unwrapped)
        closed, opened = (wanted, ()) if isinstance(verdict, Quarantine) else ((), wanted)
        if again := await fetch_again(self._data_keys, closed, opened, unwrapped):
            verdict = decide(item.value, item.key, chain, {**unwrapped, **again})
        wrapped = next(iter(wanted), None)
        plugin_text = ""
        if isinstance(verdict, Quarantine) and verdict.reason is Reason.KMS_REFUSED and wrapped is not None:
            plugin_text = await self._plugin_text(wrapped)
        return Examined(item, verdict, wrapped, plugin_text)

    async def _plugin_text(self, wrapped: WrappedKey) -> str:
        return await self._data_keys.plugin_text(wrapped) if isinstance(self._data_keys, PluginKeys) else ""

    def recognise(self, item: Item, resource: str) -> KeyRef | Quarantine:
        """Return the key that opens an object, or why none does. The plaintext is not returned.

        Of a value under a KMS provider, returns the key that it names: no plugin is asked, so nothing is proven.
        """
        chain = self.chains[resource]
        if self._has_kms and (claimed := chain.peek(item.value)) is not None:
            return claimed
        opened = chain.open(item.value, item.key, refused(chain.wanted(item.value)))
        return opened if isinstance(opened, Quarantine) else opened.ref


@asynccontextmanager
async def open_engine(
    settings: Settings, generation: Generation, pace: Pace | None = None, kms_paces: Paces | None = None
) -> AsyncIterator[Engine]:
    """Connect to etcd and yield an engine; forbids core dumps of this process for good.

    A generation whose KMS providers have no targets yet is aimed at the KEKs that the plugins name now. Without `pace`
    and `kms_paces`, the engine limits this process alone to the rate ceilings.

    Raises UnavailableError when no endpoint answers, ConfigError for settings that can't be used.
    """
    forbid_core_dumps()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(settings.etcd, settings.keyspace.state_prefix, settings.page.bytes, settings.pace.share_of_reads)
        )
        pace = pace or LocalPace(settings.pace.rate)
        if not generation.kms_providers:
            yield Engine(store, settings, generation, pace)
            return
        plugins = await stack.enter_async_context(open_plugins(KmsClient, kms_paces or local_paces(settings)))
        keys = PluginKeys(plugins, settings.kms)
        aimed, missing = await _aim(keys, generation)
        yield Engine(store, settings, aimed, pace, keys, missing=missing)


async def _aim(keys: PluginKeys, generation: Generation) -> tuple[Generation, Sequence[WorkerError]]:
    """Return the generation with its targets, and why it has none; () if it has, or needs none."""
    if generation.targets or not generation.kms_writers:
        return generation, ()
    named = await keys.key_ids(generation)
    targets = {name: answer for name, answer in named.items() if isinstance(answer, str)}
    if len(targets) == len(named):
        return generation.aimed(targets), ()
    return generation, tuple(answer for answer in named.values() if isinstance(answer, WorkerError))
