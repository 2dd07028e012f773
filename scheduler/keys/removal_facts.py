"""Gathers the facts by which `removal.py` judges whether configured keys may be removed. Read only.

`run`, `verify`, `keys` and `audit` use it. The kube-apiservers are probed before the scan, so that the scan includes
all writes of a replica that ran an older file until the probe.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe
from kube_rewrap.scheduler.keys.removal import KeyVerdict, Surroundings, judge_keys
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.history import in_force_since, last_proof
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.observations import ObserverRecords


@dataclass(frozen=True, slots=True)
class RemovalVerdicts:
    """The verdict on each configured key, in configured order, and the facts that it rests on: `proof` and `around`.

    `proof` is the scan; `proof_revision` that of the newest complete campaign over everything, 0 = there is none.
    `missing` as in Surroundings. `since`: the revision since which the configuration is in force, 0 = not known.
    """

    keys: tuple[KeyVerdict, ...]
    proof: Inventory
    convergence: Convergence
    proof_revision: int
    around: Surroundings
    missing: str = ""
    since: int = 0


async def removal_verdicts(cluster: Cluster, settings: Settings) -> RemovalVerdicts:
    """Probe the kube-apiservers, scan everything, and judge every configured key.

    Raises what a scan raises, and SettingsError for credentials that can't be read.
    """
    convergence = await ask_apiservers(cluster, settings)
    _, proof = await scan_cluster(cluster)
    return await judge_removal(cluster, convergence, proof, whole=True)


async def known_verdicts(cluster: Cluster, settings: Settings) -> RemovalVerdicts:
    """Judge as `removal_verdicts`; while a KMS plugin does not serve, by the keys that its values name.

    Then no value under KMS is opened, `missing` says so, and no key is removable.
    """
    convergence = await ask_apiservers(cluster, settings)
    missing = ""
    try:
        _, proof = await scan_cluster(cluster)
        cluster.engine.require_aimed()
    except (KmsUnavailableError, KmsRefusedError) as error:
        _, proof = await scan_cluster(cluster, peeks=True)
        missing = f"what is under KMS was counted by the keys that the values name, and not opened: {error}"
    return await judge_removal(cluster, convergence, proof, whole=True, missing=missing)


async def ask_apiservers(cluster: Cluster, settings: Settings) -> Convergence:
    """Return whether all kube-apiservers run the service's generation. Call it before a scan."""
    generation = cluster.generation
    probe = ApiserverProbe(settings, cluster.engine.store, generation.file)
    return await probe.probe(generation.file_hash, generation.targets)


async def judge_removal(
    cluster: Cluster, convergence: Convergence, proof: Inventory, *, whole: bool, missing: str = ""
) -> RemovalVerdicts:
    """Judge every configured key by a scan that began after the probe; `whole`, `missing` as in Surroundings."""
    engine = cluster.engine
    last = await last_proof(cluster)
    revision = last.proof_revision if last is not None else 0
    around = Surroundings(
        convergence.blocker,
        campaign_unfinished=bool(await cluster.campaigns().unfinished()),
        whole=whole,
        proof_revision=revision,
        compacted=bool(revision) and await engine.is_compacted(revision - 1),
        last_written=(await ObserverRecords(engine.store, engine.keyspace).load()).value.last,
        chains=cluster.chains if whole else (),
        keks=tuple([stored.value for stored in await Keks(engine.store, engine.keyspace).all()]),
        lingering=convergence.lingering,
        missing=missing,
    )
    since = await in_force_since(cluster)
    return RemovalVerdicts(tuple(judge_keys(proof, around)), proof, convergence, revision, around, missing, since)
