"""Reads from the records when the present generation came into force, and the last proof under it."""

from __future__ import annotations

from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.generations import Generations


async def last_proof(cluster: Cluster) -> Campaign | None:
    """Return the newest campaign that proved everything under this generation, None if there is none.

    A proof from before this generation came into force does not count: it may have been in force earlier, and others
    since.
    """
    proofs = await _proofs(cluster, await accepted_at(cluster))
    return max(proofs, key=lambda campaign: campaign.proof_revision, default=None)


async def in_force_since(cluster: Cluster) -> int:
    """Return the revision since which this generation is in force: at the latest that of its first proof on record.

    0 where nothing on record says so.
    """
    accepted = await accepted_at(cluster)
    return accepted or min([one.proof_revision for one in await _proofs(cluster, accepted)], default=0)


async def _proofs(cluster: Cluster, accepted: int) -> list[Campaign]:
    return [
        stored.value
        for stored in await cluster.campaigns().all()
        if stored.value.state is CampaignState.COMPLETE
        and stored.value.ended_at
        and stored.value.generation == cluster.generation.hash
        and stored.value.proof_revision > accepted
        and stored.value.whole
    ]


async def accepted_at(cluster: Cluster) -> int:
    """Return the revision at which a scheduler put this generation in force, 0 if none did.

    Raises RecordError if the record of it is damaged.
    """
    known = await Generations(cluster.engine.store, cluster.engine.keyspace).load()
    in_force = known is not None and known.value.generation.hash == cluster.generation.hash
    return known.revision if known is not None and in_force else 0
