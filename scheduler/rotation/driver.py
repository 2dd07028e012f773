"""Drives a rotation: looks at what its step needs, decides by `rotation.advance`, and acts.

Every decision is on record before it is acted on, and every edit is recorded before and after the file
changes; so whoever drives next, after whatever end of this one, goes on at the right step. Key material
is in the file, and in this process while it edits; never in a record.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from kube_rewrap.config.editing.edit import (
    add_read_key,
    drop_identity,
    drop_key,
    entries_naming,
    generate_key,
    new_key_name,
    promote,
)
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, load
from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.provider import IdentityProvider, KeyedProvider, Provider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import ConfigError, Fault, SettingsError
from kube_rewrap.scheduler.rotation.archive import replace_file
from kube_rewrap.scheduler.rotation.replaceable import faults_of
from kube_rewrap.scheduler.rotation.transition import (
    Campaigned,
    Edit,
    Look,
    Move,
    Next,
    Scanned,
    Seen,
    Wait,
    advance,
    prepared,
)
from kube_rewrap.worker.errors import RecordChangedError, RefusedError
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import new_id
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_log = structlog.get_logger()


class Senses(Protocol):
    """What a rotation has to know of the cluster."""

    async def converged(self, rotation: Rotation) -> tuple[bool, str]:
        """Return whether every kube-apiserver runs the rotation's present file, and a sentence that says more."""

    async def campaign(self, rotation: Rotation) -> Campaigned:
        """See to it that everything is rewritten, and return how far that is."""

    async def scan(self, rotation: Rotation) -> Scanned:
        """Open every governed object at one revision, taken now."""

    async def compacted(self, revision: int) -> bool:
        """Return whether etcd no longer answers at revisions before this one."""


class Blind:
    """The senses of whoever only edits: what it does not do needs none."""

    async def converged(self, rotation: Rotation) -> tuple[bool, str]:
        """See Senses."""
        return False, f"whoever drives {rotation.id} asks about {rotation.file}"

    async def campaign(self, rotation: Rotation) -> Campaigned:
        """See Senses."""
        return Campaigned(None, f"whoever drives {rotation.id} sees to it")

    async def scan(self, rotation: Rotation) -> Scanned:
        """See Senses."""
        raise AssertionError(rotation.id)

    async def compacted(self, revision: int) -> bool:
        """See Senses."""
        raise AssertionError(revision)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, and why. No resources: every entry of the file. `provider` None: the present one's type."""

    resources: tuple[str, ...] = ()
    provider: ProviderType | None = None
    prune: bool = False
    by_hand: bool = False
    because: str = "asked for"


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """The EncryptionConfiguration's file, and where its old contents are kept."""

    path: str
    archive: str
    allow_readable: bool = False

    def read(self) -> bytes:
        """Return the file's bytes. Raises SourceError."""
        return read(self.path, allow_readable=self.allow_readable)

    def faults(self) -> tuple[str, ...]:
        """Return why the file can't be replaced. Writes nothing."""
        return faults_of(self.path, self.archive)

    def replace(self, before: bytes, after: bytes, stamp: str) -> None:
        """Put a content in the place of another one. Raises ReplaceError."""
        kept = replace_file(self.path, before, after, self.archive, stamp)
        _log.info("rotation.archived", file=self.path, archived=str(kept), because="keys are kept, never destroyed")


def archive_of(path: str) -> str:
    """Return where old contents of a file are kept when nothing else is said: beside it."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), "kube-rewrap-archive")  # noqa: PTH100, PTH118, PTH120


def begin(
    raw: bytes, file: str, order: Order, taken: Iterable[str], now: datetime, *, is_idle: Callable[[str], bool]
) -> Rotation:
    """Return a rotation before its first step. Raises SettingsError for what can't be rotated, ConfigError.

    `taken` are names that keys had before: a backup, or an archived file, still knows them. Names that are idle
    govern nothing, and an entry that has no others gets no key.
    """
    configuration = load(raw, file)
    named = _entries(configuration, order.resources)
    entries = tuple(one for one in named if not all(map(is_idle, configuration.entries[one].resources)))
    if not entries:
        idle = ", ".join(dict.fromkeys(name for one in named for name in configuration.entries[one].resources))
        raise _refused("--resource", f"{idle}: governs nothing, so a key would write nothing", "see `rewrap check`")
    primaries = [configuration.entries[index].providers[0] for index in entries]
    kind = order.provider or _common_type(primaries)
    _require_no_weaker(kind, primaries)
    names = [key.name for entry in configuration.entries for provider in entry.providers for key in _keys(provider)]
    retired = dict.fromkeys(_primary(provider) for provider in primaries)
    resources = dict.fromkeys(name for index in entries for name in configuration.entries[index].resources)
    return Rotation(
        new_id(now, os.urandom(2)),
        RotationStep.ADD,
        order.because,
        entries,
        tuple(name for name in resources if not is_idle(name)),
        kind.value,
        new_key_name([*names, *taken], now.date()),
        tuple(retired),
        content_hash(raw),
        by_hand=order.by_hand,
        prune=order.prune,
    )


def _entries(configuration: EncryptionConfiguration, resources: Sequence[str]) -> tuple[int, ...]:
    if not resources:
        return tuple(range(len(configuration.entries)))
    found = entries_naming(configuration, [GroupResource.parse(name) for name in resources])
    missing = [name for name in resources if not entries_naming(configuration, [GroupResource.parse(name)])]
    if missing:
        raise _refused("--resource", f"no entry of the file names {', '.join(missing)}", "name it as the file does")
    return found


def _common_type(primaries: Sequence[Provider]) -> ProviderType:
    kinds = {provider.type for provider in primaries}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in _KEYED:
        return kind
    shown = ", ".join(sorted(kind.value for kind in kinds))
    raise _refused(
        "--provider",
        f"the chosen resources are written with {shown}: what shall the new key be for?",
        f"choose one of {', '.join(kind.value for kind in _KEYED)}",
    )


_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEYED = (ProviderType.SECRETBOX, ProviderType.AESGCM, ProviderType.AESCBC)


def _primary(provider: Provider) -> KeyRef:
    if isinstance(provider, KeyedProvider):
        key = provider.keys[0]
        return KeyRef(provider.type.value, key.name, key.secret.fingerprint(provider.type.value))
    if isinstance(provider, IdentityProvider):
        return KeyRef(ProviderType.IDENTITY.value, "", PLAINTEXT_FINGERPRINT)
    raise _refused("--resource", "a KMS provider's keys are rotated by its plugin", "name the other resources")


def _keys(provider: Provider) -> Sequence[_Named]:
    return provider.keys if isinstance(provider, KeyedProvider) else ()


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _refused(place: str, message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault(place, message, remedy),))


def edit(rotation: Rotation, raw: bytes, file: str) -> tuple[bytes, str]:
    """Return the file as a step wants it, and the new key's fingerprint ("" where the step makes none).

    Raises EditError when the text can't be edited without a guess.
    """
    kind = ProviderType(rotation.provider)
    configuration = load(raw, file)
    if not all(0 <= index < len(configuration.entries) for index in rotation.entries):
        raise ValueError("the record names an entry that the file does not have")
    match rotation.step:
        case RotationStep.ADD:
            # A record may be forged: neither a name that is none of ours, nor a weaker cipher than there is.
            if not _KEY_NAME.fullmatch(rotation.key_name):
                raise ValueError("the record names a key as no rotation does")
            _require_no_weaker(kind, (configuration.entries[index].providers[0] for index in rotation.entries))
            key = generate_key(rotation.key_name)
            return add_read_key(raw, file, rotation.entries, kind, key), key.secret.fingerprint(kind.value)
        case RotationStep.PROMOTE:
            return promote(raw, file, rotation.entries, kind, rotation.key_name), ""
        case RotationStep.WITHDRAW:
            return drop_key(raw, file, rotation.entries, kind, rotation.key_name), ""
    return _pruned(rotation, raw, file), ""


def _require_no_weaker(kind: ProviderType, primaries: Iterable[Provider]) -> None:
    """Refuse aescbc, which has no integrity, in the place of a cipher that authenticates. Raises SettingsError."""
    stronger = {one.type.value for one in primaries} & {ProviderType.AESGCM, ProviderType.SECRETBOX, ProviderType.KMS}
    if kind is ProviderType.AESCBC and stronger:
        raise _refused(
            "--provider",
            f"aescbc has no integrity and would take the place of {', '.join(sorted(stronger))}",
            "choose secretbox or aesgcm",
        )


def _pruned(rotation: Rotation, raw: bytes, file: str) -> bytes:
    """Return the file without the retired keys, in the rotation's entries only."""
    for index in rotation.entries:
        providers = load(raw, file).entries[index].providers
        held = {_ref(provider, place) for provider in providers for place in range(len(_keys(provider)) or 1)}
        for key in rotation.retired:
            if key in held and key.fingerprint == PLAINTEXT_FINGERPRINT:
                raw = drop_identity(raw, file, [index])
            elif key in held:
                raw = drop_key(raw, file, [index], ProviderType(key.provider), key.name)
    return raw


def _ref(provider: Provider, place: int) -> KeyRef | None:
    if isinstance(provider, KeyedProvider):
        key = provider.keys[place]
        return KeyRef(provider.type.value, key.name, key.secret.fingerprint(provider.type.value))
    return _primary(provider) if isinstance(provider, IdentityProvider) else None


@dataclass(frozen=True, slots=True)
class Books:
    """Where a rotation is accounted for: the audit log, and the write budgets."""

    audit: AuditLog
    ledger: Ledger


class Rotator:
    """See the module's docstring. `by_hand` is shown the content that an operator has to put in place."""

    def __init__(
        self,
        rotations: Rotations,
        file: ConfigurationFile,
        senses: Senses,
        books: Books,
        by_hand: Callable[[Rotation, bytes], None] | None = None,
    ) -> None:
        self.rotations = self._rotations = rotations
        self._file = file
        self._senses = senses
        self._books = books
        self._by_hand = by_hand

    async def plan(self, order: Order, budgets: Iterable[Budget], is_idle: Callable[[str], bool]) -> Rotation:
        """Return a rotation that is on no record yet. Raises SettingsError, and ConfigError for an unusable file.

        The budgets on record know the names of all keys that there ever were. `is_idle` as in `begin`.
        """
        raw = await asyncio.to_thread(self._file.read)
        taken = {stored.value.key_name for stored in await self._rotations.all()}
        taken.update(name for budget in budgets for name in budget.names)
        return begin(raw, self._file.path, order, taken, datetime.now(UTC), is_idle=is_idle)

    async def begin(self, rotation: Rotation) -> Rotation:
        """Put a planned rotation on record. Raises RefusedError when the file is another one by now."""
        found = await self.file_hash()
        if found != rotation.file:
            raise RefusedError(f"the file was changed since the rotation was planned: it is {found} now")
        await self._rotations.forget_old()
        await self._rotations.save(Stored(rotation, 0))
        await self._tell("rotation.begun", rotation, f"{', '.join(rotation.resources)}: {rotation.because}")
        return rotation

    async def file_hash(self) -> str:
        """Return the hash of the file as it is now. Raises SourceError."""
        return content_hash(await asyncio.to_thread(self._file.read))

    async def step(self) -> Next | None:
        """Look, decide and act once; None when there is no rotation. Raises WorkerError, ConfigError.

        When an operator's word comes between, nothing is done: the next step heeds it.
        """
        stored = await self._rotations.unfinished()
        if stored is None:
            return None
        try:
            return await self._step(stored)
        except RecordChangedError:
            now = await self._rotations.unfinished()
            if now is not None and now.revision == stored.revision:
                raise  # it was our lock
            return Next(Wait(), "somebody changed the rotation's record; it is looked at again")

    async def _step(self, stored: Stored[Rotation]) -> Next:
        try:
            raw = await asyncio.to_thread(self._file.read)
        except ConfigError as error:
            return Next(Wait(), f"the file can't be read: {error}")
        seen = Seen(content_hash(raw))
        while True:
            decided = advance(stored.value, seen, _now())
            match decided.action:
                case Look(what):
                    seen = await self._look(what, stored.value, seen)
                    continue
                case Move(rotation):
                    await self._rotations.save(replace(stored, value=rotation))
                    event = "rotation.held" if rotation.held else "rotation.moved"
                    await self._tell(event, rotation, decided.because)
                case Edit():
                    return await self._edit(stored, raw, decided)
                case Wait():
                    await self._note_waiting(stored, decided.because)
            return decided

    async def _note_waiting(self, stored: Stored[Rotation], because: str) -> None:
        """Put on record what is missing, for whoever looks at the rotation from elsewhere."""
        if not stored.value.held and stored.value.waits != because:
            await self._rotations.save(replace(stored, value=replace(stored.value, waits=because)))

    async def _look(self, what: str, rotation: Rotation, seen: Seen) -> Seen:
        match what:
            case "apiservers":
                converged, because = await self._senses.converged(rotation)
                return replace(seen, converged=converged, converged_because=because)
            case "campaign":
                return replace(seen, campaign=await self._senses.campaign(rotation))
            case "scan":
                return replace(seen, scan=await self._senses.scan(rotation))
        return replace(seen, compacted=await self._senses.compacted(rotation.proof_revision))

    async def _edit(self, stored: Stored[Rotation], raw: bytes, decided: Next) -> Next:
        """Prepare an edit, put on record where it leads, and only then make it."""
        if stored.value.by_hand and self._by_hand is None:
            return Next(Wait(), "`rewrap rotate resume` has to be run: it writes the file that is to be put in place")
        try:
            edited, fingerprint = edit(stored.value, raw, self._file.path)
        except ConfigError as error:
            return await self._hold(stored, f"the file can't be edited: {error}")
        except ValueError:
            return await self._hold(stored, "the rotation's record does not fit the file; abort it, and begin again")
        rotation = prepared(stored.value, content_hash(edited), fingerprint)
        if fingerprint:
            # Nobody has ever encrypted with it: later, what is under it would have to be taken for its use.
            await self._books.ledger.begin_new(KeyRef(rotation.provider, rotation.key_name, fingerprint))
        stored = await self._rotations.save(replace(stored, value=rotation))
        if self._by_hand is not None and rotation.by_hand:
            self._by_hand(rotation, edited)
        else:
            try:
                await _to_its_end(asyncio.to_thread(self._file.replace, raw, edited, rotation.id))
            except ConfigError as error:
                return await self._hold(stored, f"the file can't be replaced: {error}")
        await self._tell("rotation.edited", rotation, decided.because)
        return decided

    async def _hold(self, stored: Stored[Rotation], because: str) -> Next:
        """Put on record that an operator has to act: trying again would only fail again."""
        held = replace(stored.value, held=because, edited="", waits="")
        await self._rotations.save(replace(stored, value=held))
        await self._tell("rotation.held", held, because)
        return Next(Move(held), because)

    async def _tell(self, event: str, rotation: Rotation, because: str) -> None:
        level = _log.error if rotation.held else _log.info
        level(event, **rotation.log_context(), because=because)
        await self._books.audit.append(event, "", rotation=rotation.id, step=rotation.step.value, because=because)


async def _to_its_end(work: Coroutine[object, object, None]) -> None:
    """Await what must not be left half done; a cancellation waits for it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
