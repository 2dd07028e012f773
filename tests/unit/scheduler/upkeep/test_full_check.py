"""For which objects a full check requests no campaign."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import KmsProvider
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.upkeep.full_check import FullCheckController
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.records.kek import Kek, is_unheard_of
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef
from kube_rewrap.worker.wrapped import fingerprint_of_key_id, hash_of_key_id
from tests.fakes.plugins import MemoryPlugins
from tests.unit.scheduler.keys.scene import NEW, ref, scene

KMS = KmsProvider("v2", "cloud", "unix:///kms.sock", 3.0, None)
FORMER, TARGET, NEXT = (KeyRef("kms", "cloud", fingerprint_of_key_id(f"kek-{number}")) for number in (1, 2, 3))
IN_FORCE = frozenset({FORMER.fingerprint, TARGET.fingerprint})


@pytest.mark.parametrize(
    ("key", "primary", "in_force", "is_so"),
    [
        pytest.param(NEXT, TARGET, IN_FORCE, True, id="a KEK that was never in force"),
        pytest.param(replace(NEXT, fingerprint=f"{NEXT.fingerprint}-type0"), TARGET, IN_FORCE, True, id="of type 0"),
        pytest.param(FORMER, TARGET, IN_FORCE, False, id="a former one"),
        pytest.param(TARGET, TARGET, IN_FORCE, False, id="the one in force"),
        pytest.param(replace(TARGET, fingerprint=f"{TARGET.fingerprint}-type0"), TARGET, IN_FORCE, False, id="type 0"),
        pytest.param(NEXT, TARGET, frozenset(), False, id="nothing is on record"),
        pytest.param(replace(NEXT, name="other"), TARGET, IN_FORCE, False, id="of another provider"),
        pytest.param(NEXT, ref(NEW), IN_FORCE, False, id="KMS only reads"),
        pytest.param(ref(NEW), TARGET, IN_FORCE, False, id="a key of the file"),
        pytest.param(KeyRef("kms", "cloud", "others"), TARGET, IN_FORCE, False, id="KEKs that are counted together"),
    ],
)
def test_which_keks_are_unheard_of(key: KeyRef, primary: KeyRef, in_force: frozenset[str], *, is_so: bool) -> None:
    assert is_unheard_of(key, primary, in_force) is is_so


@pytest.mark.parametrize(
    ("state", "ahead"),
    [
        pytest.param(CampaignState.COMPLETE, 3, id="written after the proof"),
        pytest.param(CampaignState.INCOMPLETE, 0, id="no proof: the KEK may be an old one"),
    ],
)
async def test_objects_under_a_newer_kek_than_ours_are_no_reason_for_a_campaign(
    state: CampaignState, ahead: int
) -> None:
    there = await scene(KMS, NEW)
    generation = there.engine.generation.aimed({KMS.name: hash_of_key_id("kek-2")})
    cluster = Cluster(Settings(), Layout(), Engine(there.store, Settings(), generation, LocalPace(0), MemoryPlugins()))
    engine = cluster.engine
    campaigns = Campaigns(there.store, engine.keyspace)
    kek = Kek(provider=KMS.name, target=hash_of_key_id("kek-2"), since=5.0, former=(hash_of_key_id("kek-1"),))
    await Keks(there.store, engine.keyspace).save(Stored(kek))
    proven = Campaign(
        id="c",
        state=state,
        generation=engine.generation.hash,
        scope=Scope(("secrets",)),
        batches=1,
        planned_at="2026-01-01T00:00:00+00:00",
        because="why",
        whole=True,
    )
    await campaigns.save(Stored(proven))
    tally = ResourceTally("secrets", TARGET, (TARGET, ref(NEW)))
    for key, count in ((TARGET, 5), (FORMER, 2), (NEXT, 3), (ref(NEW), 1)):
        for _ in range(count):
            tally.add_readable(key, 10, 1)
    controller = FullCheckController(cluster, campaigns, None, None, None)  # type: ignore[arg-type]
    assert await controller._written_ahead(Inventory(7, (tally,))) == ahead
