"""Gathers the facts of the hardening checklist: one scan, the records, the file, the endpoints. Read only."""

from __future__ import annotations

import asyncio
import stat
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.errors import Fault, SourceError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.backups.catalogue_file import read_catalogue
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.hardening.facts import Ages, FileFacts, HardeningFacts, SocketFacts
from kube_rewrap.scheduler.keys.removal_facts import known_verdicts
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.etcd.anonymous import probe
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.verdict import Reason

_UNWRITTEN = {Reason.TOO_LARGE, Reason.CONTENDED}
"""Reasons that only a campaign finds. The scan itself finds the others, as they are now."""


async def gather(cluster: Cluster, settings: Settings, ages: Ages) -> HardeningFacts:
    """Gather all facts once. Raises a scan's errors, and SettingsError for credentials that can't be read."""
    generation, store, keyspace = cluster.generation, cluster.engine.store, cluster.engine.keyspace
    path = settings.backups.catalogue
    judged = await known_verdicts(cluster, settings)
    campaigns = [stored.value for stored in await Campaigns(store, keyspace).all()]
    quarantined, stuck = await _quarantined(cluster, campaigns)
    members, alarms = await store.members(), await store.alarms()
    told = {member.endpoint for member in members}
    keks = [stored.value for stored in await Keks(store, keyspace).all()]
    return HardeningFacts(
        settings=settings,
        ages=ages,
        now=time.time(),
        configuration=generation.configuration,
        generation=describe(generation),
        proof=judged.proof,
        keys=judged.keys,
        convergence=judged.convergence,
        budgets=await cluster.engine.ledger.all(),
        watched=(await ObserverRecords(store, keyspace).load()).value.since,
        made=_made(stored.value for stored in await Rotations(store, keyspace).all()),
        file=await asyncio.to_thread(_file, generation.file),
        exposures=await probe(settings.etcd),
        proof_revision=judged.proof_revision,
        proven_at=_proven_at(campaigns, judged.proof_revision),
        quarantined=quarantined,
        stuck=stuck,
        room=judge_space(members, alarms, 0, settings.space),
        quota_told=settings.space.quota_bytes is not None or all(member.quota for member in members),
        silent=tuple(url for url in settings.etcd.endpoints if url not in told),
        keks={(kek.provider, kek.fingerprint): kek.since for kek in keks},
        missing=judged.missing,
        sockets=await asyncio.to_thread(_sockets, generation.kms_providers),
        catalogue=None if path is None else await asyncio.to_thread(read_catalogue, path),
    )


def _made(rotations: Iterable[Rotation]) -> dict[str, float]:
    """Return when each key on record was added to the file."""
    found: dict[str, float] = {}
    for rotation in rotations:
        added = next((passed.at for passed in rotation.passed if passed.step is RotationStep.ADD), "")
        at = _seconds(added)
        if at is not None and rotation.fingerprint:
            found[rotation.fingerprint] = min(at, found.get(rotation.fingerprint, at))
    return found


def _proven_at(campaigns: Iterable[Campaign], revision: int) -> float | None:
    proving = (one for one in campaigns if one.state is CampaignState.COMPLETE and one.proof_revision == revision)
    return next((_seconds(one.ended_at) for one in proving), None)


async def _quarantined(cluster: Cluster, campaigns: Sequence[Campaign]) -> tuple[tuple[str, ...], int]:
    """Return the readable objects that this configuration's campaigns left unwritten: some names, and the count."""
    store, keyspace = cluster.engine.store, cluster.engine.keyspace
    mine = [one for one in campaigns if one.generation == cluster.generation.hash]
    found: dict[str, None] = {}
    stuck: Counter[str] = Counter()
    for campaign in _since_everything(mine):
        left = QuarantineRecords(store, keyspace, campaign.id)
        lines = [f"{key_text(one.key)} ({one.reason.value})" async for one in left.all() if one.reason in _UNWRITTEN]
        found |= dict.fromkeys(lines)
        here: Counter[str] = Counter()
        async for one in Checkpoints(store, keyspace).all(campaign.id):
            here[one.value.spec.resource] += one.value.report.stuck
        stuck |= here  # the same objects, most likely: the most of any campaign, not their sum
    return tuple(found), stuck.total()


def _since_everything(campaigns: Sequence[Campaign]) -> Sequence[Campaign]:
    """Return the campaigns, oldest first, that did not end complete, since the last one over everything (included).

    A later campaign over a part does not show what that one left elsewhere.
    """
    whole = [number for number, one in enumerate(campaigns) if one.whole]
    since = campaigns[whole[-1] if whole else 0 :]
    return [one for one in since if one.state is not CampaignState.COMPLETE]


def _file(path: str) -> FileFacts:
    """Return the file's and its directories' present attributes. Raises SourceError if they can't be read."""
    file = Path(path)
    parents = dict.fromkeys((file.absolute().parent, file.resolve().parent))
    try:
        found = file.stat()
        directories = tuple((str(parent), stat.S_IMODE(parent.stat().st_mode)) for parent in parents)
    except OSError as error:
        message = f"it can't be looked at any more: {error.strerror}"
        raise SourceError(path, (Fault("", message, "audit again when it is not being replaced"),)) from None
    return FileFacts(path, stat.S_IMODE(found.st_mode), found.st_uid, found.st_mtime, directories)


def _sockets(providers: Iterable[KmsProvider]) -> tuple[SocketFacts, ...]:
    places = dict.fromkeys((one.name, one.address.socket) for one in providers if one.address.socket)
    return tuple(_socket(name, address) for name, address in places)


def _socket(provider: str, address: str) -> SocketFacts:
    """Look at a plugin's socket, without connecting."""
    if address.startswith("@"):
        return SocketFacts(provider, address, unseen="it has a name and no file")
    try:
        place = Path(address).resolve()
        found, above = place.stat(), [one.stat() for one in place.parents]
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        reason = error.strerror if isinstance(error, OSError) else "its links go in a circle"
        return SocketFacts(provider, address, unseen=reason or type(error).__name__)
    return SocketFacts(
        provider,
        address,
        is_socket=stat.S_ISSOCK(found.st_mode),
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
        directory_mode=stat.S_IMODE(above[0].st_mode),
        directory_owner=above[0].st_uid,
        is_shielded=not all(one.st_mode & stat.S_IXOTH for one in above),
    )


def _seconds(text: str) -> float | None:
    """Return a record's time (ISO 8601) in seconds since 1970, None where it has none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
