"""Opens every governed object of a backup, and counts it by the key that opened it, as `worker.inventory` does of etcd.

1. An object is opened by the first configuration that can, in the order in which they are given.
2. Values under KMS providers count by the key that they name, unless plugins are asked and answer.
3. Older revisions that are still in the file are counted apart. No plugin is asked for them.
4. An encrypted value of a resource that no configuration names is unreadable: kube-apiserver can't read it, either.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import IdentityProvider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.backups.missing import MissingKey, MissingKeys
from kube_rewrap.worker.backups.paths import Paths
from kube_rewrap.worker.backups.snapshot import Alarm, Member, Snapshot, State
from kube_rewrap.worker.chains import Chains
from kube_rewrap.worker.data_keys import DataKeys, fetch_again, refused
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.providers.envelope import ENCRYPTED
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, KeyRef, Quarantine
from kube_rewrap.worker.wrapped import Plugin, RefusedKey, UnwrappedKeys, WrappedKey

_GROUP = 256
"""Objects that are read before plugins are asked for their keys, and before signals are looked at."""
_GROUP_BYTES = 4 << 20
_MOST_LISTED = 1_000
_MOST_NAMED = 10_000
"""Unreadable objects of all resources that are listed."""
_LONGEST_NAMED = 1_024
"""Bytes of an etcd key that are listed; those of Kubernetes are shorter."""
_MOST_RESOURCES = 10_000
"""Resources that have objects: a client that writes to etcd can invent custom ones, and each costs about 4 KiB."""
_MOST_OUTSIDE = 100
_PLAIN = Chain([IdentityProvider()])
"""How kube-apiserver reads what no entry of its configuration names."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What one backup holds, and which of it the given keys open. Holds no key and, but for examples, no object name.

    `keys`: those below kube-apiserver's etcd prefix, governed or not, as a restored etcd has them.
    `newest`: the objects as a restored etcd has them. `history`: older revisions of objects, also of deleted ones.
    Both count values under KMS as `peeked` that were not opened; `unproven` has those of `newest` by the key that they
    name, `away` the reasons why plugins did not open them. `missing`: the keys that unreadable objects need.
    `outside`: first segments of the paths of encrypted values that belong to no resource below the etcd prefix, such as
    those of another cluster's registry in the same etcd. Nothing opens them, and they do not make a backup unreadable.
    """

    file: str
    bytes: int
    modified: float
    sha256: str
    has_hash: bool
    revision: int
    compacted: int
    is_compacting: bool
    cluster_version: str | None
    members: tuple[Member, ...]
    alarms: tuple[Alarm, ...]
    tombstones: int
    keys: int
    newest: Inventory
    history: Inventory
    missing: tuple[MissingKey, ...]
    missing_in_history: tuple[MissingKey, ...]
    unproven: Mapping[KeyRef, int]
    away: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def is_readable(self) -> bool:
        """Whether every governed object was opened, and every path belongs to a known resource.

        A backup without a key below the etcd prefix proves nothing: most likely the prefix is another one.
        """
        return self.keys > 0 and not (self.newest.unreadable or self.newest.peeked or self.newest.unknown)

    @property
    def needed(self) -> Mapping[KeyRef, int]:
        """The keys that a kube-apiserver needs to read this backup, each with its objects; without those missing."""
        return _by_key(self.newest)

    @property
    def needed_by_history(self) -> Mapping[KeyRef, int]:
        """As `needed`, for older revisions: no kube-apiserver reads them, whoever has the file and the key can."""
        return _by_key(self.history)


async def read_backup(
    snapshot: Snapshot, paths: Paths, generations: Sequence[Generation], data_keys: DataKeys | None = None
) -> BackupReport:
    """Read every revision of a backup; see the module's docstring. At least one generation is needed.

    Raises BackupError as `Snapshot.states`.
    """
    count = _Count(paths, generations, data_keys)
    for group in _groups(snapshot.states()):
        await count.add(group)
        if count.resources > _MOST_RESOURCES:
            raise snapshot.file.refused(f"it holds objects of more than {_MOST_RESOURCES:,} resources")
        await asyncio.sleep(0)
    return BackupReport(
        file=snapshot.file.name,
        bytes=snapshot.file.size,
        modified=snapshot.file.modified,
        sha256=snapshot.sha256,
        has_hash=snapshot.has_hash,
        revision=snapshot.revision,
        compacted=snapshot.compacted,
        is_compacting=snapshot.is_compacting,
        cluster_version=snapshot.cluster_version,
        members=snapshot.members,
        alarms=snapshot.alarms,
        tombstones=snapshot.tombstones,
        keys=count.keys,
        newest=count.newest.inventory(snapshot.revision, paths.named),
        history=count.history.inventory(snapshot.revision, ()),
        missing=count.newest.missing.all(),
        missing_in_history=count.history.missing.all(),
        unproven=dict(sorted(count.newest.peeked.items())),
        away=tuple(dict.fromkeys(count.away.values())),
        outside=tuple(sorted(count.outside)),
    )


def _by_key(found: Inventory) -> Mapping[KeyRef, int]:
    needed: dict[KeyRef, int] = defaultdict(int)
    for tally in found.resources:
        for key, under in tally.keys.items():
            needed[key] += under.objects
    return dict(sorted(needed.items()))


def _groups(states: Iterable[State]) -> Iterator[list[State]]:
    group: list[State] = []
    size = 0
    for state in states:
        group.append(state)
        size += len(state.value)
        if len(group) >= _GROUP or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    yield group


def _first_segment(key: bytes) -> str:
    """Return a key up to the slash after its first segment: `/kubernetes.io/`."""
    slash = key.find(b"/", 1)
    return key_text(key[: slash + 1][:_LONGEST_NAMED])


class _Counts:
    """The counts of either the newest states or the older ones."""

    def __init__(self, chains: _ChainsOf) -> None:
        self._chains = chains
        self._tallies: dict[str, ResourceTally] = {}
        self._unknown: dict[str, None] = {}
        self._named = 0
        self.missing = MissingKeys()
        self.peeked: dict[KeyRef, int] = defaultdict(int)

    def add_unknown(self, path: str) -> None:
        """Note a path of an unknown resource."""
        if len(self._unknown) < _MOST_LISTED:
            self._unknown[path] = None

    def add_peeked(self, key: KeyRef) -> None:
        """Count a state that was not opened, by the KMS key that it names."""
        is_one_by_one = key in self.peeked or len(self.peeked) < _MOST_LISTED
        self.peeked[key if is_one_by_one else replace(key, fingerprint="others")] += 1

    def add_readable(self, resource: str, state: State, key: KeyRef) -> None:
        """Count a state under a key."""
        self._tally(resource).add_readable(key, len(state.value), state.version)

    def add_unreadable(self, resource: str, state: State, why: Quarantine) -> None:
        """Count a state that no key opens."""
        tally, name = self._tally(resource), state.key[:_LONGEST_NAMED]
        listed = len(tally.listed)
        tally.add_unreadable(name, why)
        self._named += len(tally.listed) - listed
        if self._named > _MOST_NAMED:
            del tally.listed[listed:]
        self.missing.add(name, state.value, why)

    @property
    def resources(self) -> int:
        """The resources that have objects."""
        return len(self._tallies)

    def inventory(self, revision: int, named: Iterable[str]) -> Inventory:
        """Return the counts, with a row for each of `named`, be there objects or not."""
        tallies = [self._tally(resource) for resource in sorted({*self._tallies, *named})]
        for tally in tallies:
            tally.primary = self._chains.primary(tally.primary)
        return Inventory(revision, tuple(tallies), tuple(sorted(self._unknown)), sum(self.peeked.values()))

    def _tally(self, resource: str) -> ResourceTally:
        tally = self._tallies.get(resource)
        if tally is None:
            first = self._chains[resource][0]
            tally = self._tallies[resource] = ResourceTally(resource, first.primary, first.described)
        return tally


class _ChainsOf:
    """The chains of each resource, in the order of the generations; of an ungoverned one, that of plaintext alone."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._generations = [Chains(one, one.targets) for one in generations]
        self._made: dict[str, tuple[Chain, ...]] = {}
        self._written: dict[str, KeyRef] = {}

    def __getitem__(self, resource: str) -> tuple[Chain, ...]:
        made = self._made.get(resource)
        if made is None:
            found = []
            for chains in self._generations:
                try:
                    found.append(chains[resource])
                except KeyError:
                    continue
            made = self._made[resource] = tuple(found) or (_PLAIN,)
        return made

    def note(self, key: KeyRef) -> None:
        """Note the key of a newest state; they come with the last write first."""
        if key.is_kek and "-type0" not in key.fingerprint:
            self._written.setdefault(key.name, key)

    def primary(self, primary: KeyRef) -> KeyRef:
        """Return the primary; of a KMS v2 provider the KEK under which it wrote last before the backup."""
        return self._written.get(primary.name, primary) if primary.fingerprint == KMS_FINGERPRINT else primary


class _Count:
    """Counts states, group by group."""

    def __init__(self, paths: Paths, generations: Sequence[Generation], data_keys: DataKeys | None) -> None:
        self._paths = paths
        self._chains = _ChainsOf(generations)
        self._keys = data_keys
        self.newest = _Counts(self._chains)
        self.history = _Counts(self._chains)
        self.keys = 0
        """The newest states below the etcd prefix."""
        self.away: dict[Plugin, str] = {}
        """The plugins that did not answer, and why. They are not asked again."""
        self.outside: dict[str, None] = {}
        """As in BackupReport."""

    async def add(self, states: Iterable[State]) -> None:
        """Count states, after plugins were asked for their keys; once more for those that did not open."""
        work = [(state, resource) for state in states if (resource := self._resource(state))]
        wanted = self._wanted(work)
        unwrapped = await self._fetch(wanted) if wanted else {}
        closed = [(*one, why) for one in work if (why := self._count(*one, unwrapped)) is not None]
        again = await self._fetch_again([one[:2] for one in closed], wanted, unwrapped) if wanted and closed else {}
        for state, resource, why in closed:
            still = self._count(state, resource, {**unwrapped, **again}) if again else why
            if still is not None:
                self._counts(state).add_unreadable(resource, state, still)

    @property
    def resources(self) -> int:
        """The resources that have objects, those of older states included."""
        return max(self.newest.resources, self.history.resources)

    def _counts(self, state: State) -> _Counts:
        return self.newest if state.is_newest else self.history

    def _resource(self, state: State) -> str:
        """Return the resource of a state that is to be counted, else ""."""
        self.keys += state.is_newest and self._paths.covers(state.key)
        place = self._paths.at(state.key)
        if not place.is_governed and not state.value.startswith(ENCRYPTED):
            return ""
        if place.unknown:
            self._counts(state).add_unknown(place.unknown)
        elif not place.resource and len(self.outside) < _MOST_OUTSIDE:
            self.outside[_first_segment(state.key)] = None
        return place.resource

    def _count(self, state: State, resource: str, unwrapped: UnwrappedKeys) -> Quarantine | None:
        """Count a state if a key opens it, or if it names a KMS key for which no plugin answers; else return why."""
        named: KeyRef | None = None
        failure: Quarantine | None = None
        for chain in self._chains[resource]:
            key = chain.peek(state.value)
            if key is not None and not self._is_answered(chain, state):
                named = named or key
                continue
            opened = chain.open(state.value, state.key, unwrapped)
            if isinstance(opened, Opened):
                self._add_readable(resource, state, opened.ref)
                return None
            # That of a configuration which has a key of the value's name says more.
            failure = opened if failure is None or (opened.claimed and not failure.claimed) else failure
        if named is not None:
            self._counts(state).add_peeked(named)
            self._add_readable(resource, state, named)
            return None
        return failure

    def _add_readable(self, resource: str, state: State, key: KeyRef) -> None:
        if state.is_newest:
            self._chains.note(key)
        self._counts(state).add_readable(resource, state, key)

    def _is_answered(self, chain: Chain, state: State) -> bool:
        """Whether plugins have said of the state's KMS keys what they are, or that they are none of theirs."""
        is_asked = self._keys is not None and state.is_newest
        return is_asked and all(wrapped.plugin not in self.away for wrapped in chain.wanted(state.value))

    def _wanted(self, work: Iterable[tuple[State, str]]) -> dict[WrappedKey, None]:
        """Return the wrapped keys of the newest states, each once; none if no plugin is to be asked."""
        if self._keys is None:
            return {}
        newest = ((state.value, chain) for state, name in work if state.is_newest for chain in self._chains[name])
        return dict.fromkeys(wrapped for value, chain in newest for wrapped in chain.wanted(value))

    async def _fetch(self, wanted: Iterable[WrappedKey]) -> UnwrappedKeys:
        """Return what the plugins say of wrapped keys; of one that does not answer, its keys are refused."""
        by_plugin: dict[Plugin, list[WrappedKey]] = defaultdict(list)
        for wrapped in wanted:
            by_plugin[wrapped.plugin].append(wrapped)
        unwrapped: dict[WrappedKey, SecretBytes | RefusedKey] = {}
        for plugin, keys in by_plugin.items():
            try:
                unwrapped |= await self._ask(plugin, keys)
            except (KmsUnavailableError, KmsRefusedError) as error:
                self.away[plugin] = str(error)
            if plugin in self.away:
                unwrapped |= refused(keys)
        return unwrapped

    async def _ask(self, plugin: Plugin, wanted: Sequence[WrappedKey]) -> UnwrappedKeys:
        return {} if plugin in self.away or self._keys is None else await self._keys.fetch(wanted)

    async def _fetch_again(
        self, closed: Iterable[tuple[State, str]], wanted: Iterable[WrappedKey], unwrapped: UnwrappedKeys
    ) -> UnwrappedKeys:
        """Return the answers once more, as `fetch_again` does; none if the plugin stopped answering."""
        doubtful = self._wanted(closed)
        if self._keys is None or not doubtful:
            return {}
        try:
            return await fetch_again(self._keys, doubtful, [one for one in wanted if one not in doubtful], unwrapped)
        except (KmsUnavailableError, KmsRefusedError) as error:
            self.away |= {wrapped.plugin: str(error) for wrapped in doubtful}
            return refused(doubtful)
