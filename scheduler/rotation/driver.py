"""Drives a rotation: reads its record and the file, gathers the facts that `advance` needs, and acts on its decision.

Each step makes at most one transition. It records every decision before it acts on it, and every edit before and after
the file changes; so after a crash at any point the next driver continues at the right step. Key material is in the
file, and in this process during an edit; never in a record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError, Fault, SettingsError
from kube_rewrap.scheduler.rotation.edits import edit
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.probes import ClusterProbe
from kube_rewrap.scheduler.rotation.transition import (
    Decision,
    Edit,
    Fact,
    Facts,
    Move,
    Need,
    Wait,
    advance,
    prepared,
)
from kube_rewrap.worker.background import uninterrupted
from kube_rewrap.worker.errors import (
    CompactedError,
    KmsRefusedError,
    KmsUnavailableError,
    RecordChangedError,
    RefusedError,
)
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.campaign import Pause
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef

_KEY_BYTES = 32
_log = structlog.get_logger()

HandOut = Callable[[Rotation, bytes], None]
"""Gives an operator the content that they have to put in place of the file."""


class RotationDriver:
    """See the module's docstring. `hand_out` None: this process can't make the edits of a rotation by hand.

    While a KMS plugin that a fact needs does not serve, the rotation waits.
    """

    def __init__(
        self,
        rotations: Rotations,
        file: ConfigurationFile,
        probe: ClusterProbe,
        audit: AuditLog,
        ledger: Ledger,
        *,
        hand_out: HandOut | None = None,
    ) -> None:
        self.rotations = rotations
        self._file = file
        self._probe = probe
        self._audit = audit
        self._ledger = ledger
        self._hand_out = hand_out

    async def begin(self, rotation: Rotation) -> Rotation:
        """Record a planned rotation. Raises RefusedError when the file was changed since it was planned."""
        found = await self.file_hash()
        if found != rotation.file:
            raise RefusedError(f"the file was changed since the rotation was planned: it is {found} now")
        await self.rotations.forget_old()
        await self.rotations.save(Stored(rotation, 0))
        await self._report("rotation.begun", rotation, f"{', '.join(rotation.resources)}: {rotation.because}")
        return rotation

    async def file_hash(self) -> str:
        """Return the hash of the file as it is now. Raises SourceError."""
        return content_hash(await asyncio.to_thread(self._file.read))

    async def step(self) -> Decision | None:
        """Decide and act once; None when no rotation is unfinished. Raises WorkerError, ConfigError.

        If an operator changes the record meanwhile, the step does nothing; the next one reads the change.
        """
        stored = await self.rotations.unfinished()
        if stored is None:
            return None
        try:
            return await self._step(stored)
        except RecordChangedError:
            now = await self.rotations.unfinished()
            if now is not None and now.revision == stored.revision:
                raise  # the lock on leadership is lost, not the record changed
            return Decision(Wait(), "the rotation's record was changed meanwhile; the next step reads it again")

    async def _step(self, stored: Stored[Rotation]) -> Decision:
        try:
            raw = await asyncio.to_thread(self._file.read)
        except ConfigError as error:
            return Decision(Wait(), f"the file can't be read: {error}")
        facts = Facts(content_hash(raw))
        decision = advance(stored.value, facts, _now())
        try:
            while isinstance(need := decision.action, Need):
                facts = await _gather(self._probe, need.fact, stored.value, facts)
                decision = advance(stored.value, facts, _now())
        except (KmsUnavailableError, KmsRefusedError) as error:
            # Nothing is wrong with the rotation: the next step asks the plugin again.
            decision = Decision(Wait(), f"it rests ({Pause.KMS.value}) until the plugin serves: {error}")
        except CompactedError as error:
            if decision.action != Need(Fact.SCAN):
                raise
            decision = Decision(Wait(), str(error))
        match decision.action:
            case Move(rotation):
                await self.rotations.save(replace(stored, value=rotation))
                await self._report("rotation.held" if rotation.held else "rotation.moved", rotation, decision.because)
            case Edit():
                return await self._edit(stored, raw, decision)
            case Wait():
                await self._record_waiting(stored, decision.because)
        return decision

    async def _record_waiting(self, stored: Stored[Rotation], because: str) -> None:
        """Record what the rotation waits for, so that `rewrap rotate status` shows it."""
        if not stored.value.held and stored.value.waits != because:
            await self.rotations.save(replace(stored, value=replace(stored.value, waits=because)))

    async def _edit(self, stored: Stored[Rotation], raw: bytes, decision: Decision) -> Decision:
        """Prepare an edit, record the hash of its result, and only then make it."""
        if stored.value.by_hand and self._hand_out is None:
            because = "`rewrap rotate resume` has to be run: it writes the file that is to be put in place"
            return Decision(Wait(), because)
        try:
            stanza = await asyncio.to_thread(self._stanza, stored.value)
            edited, fingerprint = edit(stored.value, raw, self._file.path, fresh_key(), stanza)
        except ConfigError as error:
            return await self._hold(stored, f"the file can't be edited: {error}")
        except ValueError:
            return await self._hold(stored, "the rotation's record does not fit the file; abort it, and begin again")
        rotation = prepared(stored.value, content_hash(edited), fingerprint)
        if fingerprint:
            # Create the new key's budget now, so that its writes are counted, not estimated.
            await self._ledger.begin_new(KeyRef(rotation.provider, rotation.key_name, fingerprint))
        stored = await self.rotations.save(replace(stored, value=rotation))
        if self._hand_out is not None and rotation.by_hand:
            self._hand_out(rotation, edited)
        else:
            try:
                await uninterrupted(asyncio.to_thread(self._file.replace, raw, edited, rotation.id))
            except ConfigError as error:
                return await self._hold(stored, f"the file can't be replaced: {error}")
        await self._report("rotation.edited", rotation, decision.because)
        return decision

    def _stanza(self, rotation: Rotation) -> KmsProvider | None:
        """Return the KMS provider to add. Raises ConfigError when it is not the one that the rotation was planned with.

        The record has its hash only: a client that can write records must not choose the plugin.
        """
        if not rotation.stanza or rotation.step is not RotationStep.ADD:
            return None
        provider, found = self._file.stanza()
        if found != rotation.stanza:
            message = f"{self._file.kms_file} is not the one that the rotation was planned with: {rotation.stanza}"
            remedy = "let the process that edits the configuration file read the same file"
            raise SettingsError("command line", (Fault("--kms-file", message, remedy),))
        return provider

    async def _hold(self, stored: Stored[Rotation], because: str) -> Decision:
        """Hold the rotation until an operator acts: a retry would fail again."""
        held = replace(stored.value, held=because, edited="", waits="")
        await self.rotations.save(replace(stored, value=held))
        await self._report("rotation.held", held, because)
        return Decision(Move(held), because)

    async def _report(self, event: str, rotation: Rotation, because: str) -> None:
        """Log an event, and add it to the audit log."""
        level = _log.error if rotation.held else _log.info
        level(event, **rotation.log_context(), because=because)
        await self._audit.append(event, "", rotation=rotation.id, step=rotation.step.value, because=because)


async def _gather(probe: ClusterProbe, fact: Fact, rotation: Rotation, facts: Facts) -> Facts:
    match fact:
        case Fact.CONVERGENCE:
            return replace(facts, convergence=await probe.convergence(rotation))
        case Fact.CAMPAIGN:
            return replace(facts, campaign=await probe.campaign(rotation))
        case Fact.SCAN:
            return replace(facts, scan=await probe.scan(rotation))
        case Fact.COMPACTED:
            return replace(facts, compacted=await probe.is_compacted(rotation.proof_revision))


def fresh_key() -> SecretBytes:
    """Return key material from the system's random source, of the length that every provider takes."""
    return SecretBytes(os.urandom(_KEY_BYTES))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
