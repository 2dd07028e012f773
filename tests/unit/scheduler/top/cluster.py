"""Facts of a made-up cluster with a bit of everything, for tests of what `rewrap top` shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kube_rewrap.scheduler.apiservers.convergence import Convergence, Replica, ReplicaState
from kube_rewrap.scheduler.top.facts import CampaignFacts, EtcdFacts, Facts, KeyFacts, Lock, Probed
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import MemberStatus
from kube_rewrap.worker.records.audit_chain import Entry
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget, Own
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Pause, Scope
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.holder import Handback, Holder
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceRange, ResourceTally
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Request, RequestKind, RequestState
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import KeyRef

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
NEW, OLD = KeyRef("aesgcm", "key-2026-11", "a" * 16), KeyRef("aesgcm", "key-2026-05", "b" * 16)
CLOUD = KeyRef("kms", "cloud", "v2")
BOX = KeyRef("secretbox", "box", "c" * 16)
IN_FORCE = GenerationRecord("sha256:00", (("secrets", (NEW, OLD)), ("configmaps", (NEW, BOX))))


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def campaign(name: str, state: CampaignState, because: str, *, seconds: float, batches: int = 3) -> Campaign:
    return Campaign(
        id=name,
        state=state,
        generation="sha256:00",
        scope=Scope(("configmaps", "secrets")),
        batches=batches,
        planned_at=ago(seconds),
        because=because,
        paused_for=Pause.OPERATOR if state is CampaignState.PAUSED else None,
        ended_at=ago(seconds - 60) if state.is_end else "",
        options=CampaignOptions(reason="a change"),
    )


def batch(number: int, resource: str, done: int, planned: int, state: BatchState) -> Checkpoint:
    spec = BatchSpec(
        campaign="20261126-115900-abc123",
        number=number,
        resource=resource,
        range=KeyRange(b"a", b"b"),
        generation="sha256:00",
        namespaces=(("default", planned - 1), ("kube-system", 1)),
    )
    report = BatchReport.of({"rewritten": done}) if done else BatchReport()
    return Checkpoint(spec=spec, state=state, report=report)


RUNNING = CampaignFacts(
    campaign("20261126-115900-abc123", CampaignState.RUNNING, "9000 of 9000 objects are not current", seconds=60),
    (
        batch(0, "configmaps", 3_000, 3_000, BatchState.DONE),
        batch(1, "configmaps", 1_500, 3_000, BatchState.RUNNING),
        batch(2, "secrets", 900, 3_000, BatchState.RUNNING),
    ),
    (
        (2, Holder("rewrap worker", "node-b", 811, ago(30))),
        (1, Holder("rewrap worker", "node-a", 4711, ago(40))),
    ),
)
COMPLETE = CampaignFacts(
    campaign("20261125-080000-def456", CampaignState.COMPLETE, "a scan read all objects", seconds=100_000)
)
CANCELLED = CampaignFacts(
    campaign("20261125-070000-def457", CampaignState.CANCELLED, "by an operator", seconds=110_000)
)


def replica(number: int, state: ReplicaState, because: str) -> Replica:
    return Replica(f"https://10.0.0.{number}:6443", f"sha256:{number}", f"apiserver-{number}", state, "", because)


def entry(number: int, event: str, because: str, seconds: float) -> Entry:
    return Entry(
        number=number,
        at=ago(seconds),
        event=event,
        campaign="20261126-115900-abc123",
        actor="rewrap scheduler node-a:1",
        detail={"because": because},
        previous="0" * 64,
    )


BUSY = Facts(
    at=NOW,
    etcd=EtcdFacts(
        0.0123,
        123_456,
        3,
        (
            MemberStatus("a", "3.5.16", 700 * 2**20, 500 * 2**20, 0, 1, 1),
            MemberStatus("b", "3.5.16", 690 * 2**20, 510 * 2**20, 0, 1, 1),
        ),
        (),
    ),
    leader=Lock(Holder("rewrap scheduler", "node-a", 1, "2026-11-26T11:00:00+00:00")),
    owner=Lock(Holder("rewrap scheduler", "node-a", 1, "2026-11-26T11:59:00+00:00")),
    campaigns=(CANCELLED, COMPLETE, RUNNING),
    requests=(
        Request(
            id="20261126-115930-11223344",
            kind=RequestKind.START,
            state=RequestState.WAITING,
            asked_at=ago(30),
        ),
    ),
    handbacks=(Handback(Holder("rewrap worker", "node-c", 9, ago(5)), "sha256:11"),),
    rotation=Rotation(
        id="20261126-115800-abcdef",
        step=RotationStep.REWRAP,
        because="all run it",
        entries=(0,),
        resources=("secrets",),
        provider="aesgcm",
        key_name="key-2026-11",
        retired=(OLD,),
        file="sha256:00",
        waits="a campaign is at work",
    ),
    keys=KeyFacts(
        (
            Budget(fingerprint=BOX.fingerprint, provider="secretbox", names=("box",), reserved=7),
            Budget(fingerprint=OLD.fingerprint, provider="aesgcm", names=("key-2026-05",), reserved=230_000),
            Budget(
                fingerprint=NEW.fingerprint,
                provider="aesgcm",
                names=("key-2026-11",),
                reserved=5_400,
                observed=100_000,
                own={"secrets": Own(400)},
                committed=400,
            ),
        ),
        {NEW.fingerprint: int(NOW.timestamp()) - 86_400},
    ),
    in_force=IN_FORCE,
    apiservers=Probed(
        Convergence(
            is_converged=False,
            file_hash="sha256:00",
            because="1 of 2 replicas runs another configuration",
            replicas=(
                replica(1, ReplicaState.CONVERGED, "runs it since 11:58"),
                replica(2, ReplicaState.OTHER, "has not reloaded the file yet"),
            ),
        )
    ),
    events=(
        entry(9, "campaign.planned", "9000 of 9000 objects are not current", 60),
        entry(8, "rotation.step", "all run it", 90_000),
    ),
)
"""A rotation under way, with one of three members of etcd away and a worker that holds another file."""


def part(number: int, counted: int, *, is_done: bool) -> ProofPart:
    """A part of a proof of three, at revision 99, in which a worker has counted so many objects."""
    tally = ResourceTally("secrets", NEW, (NEW, OLD), {NEW: KeyTally(counted, 0, counted)})
    found = Inventory(99, (tally,))
    return ProofPart(
        campaign=RUNNING.campaign.id,
        number=number,
        revision=99,
        generation="sha256:00",
        ranges=(ResourceRange("secrets", KeyRange(b"a", b"b")),),
        found=found if is_done else None,
        partial=found if counted and not is_done else None,
        of=3,
    )


PROVING = replace(
    BUSY,
    campaigns=(
        COMPLETE,
        CampaignFacts(
            replace(RUNNING.campaign, state=CampaignState.PROVING, because="all batches are done"),
            tuple(replace(one, state=BatchState.DONE) for one in RUNNING.batches),
            ((1, Holder("rewrap worker", "node-a", 4711, ago(4))), (2, Holder("rewrap worker", "node-b", 811, ago(1)))),
            (part(0, 10_000, is_done=True), part(1, 2_500, is_done=False), part(2, 0, is_done=False)),
        ),
    ),
    keys=replace(
        BUSY.keys,
        keks=(
            Kek(provider="cloud", target=f"sha256:{'1' * 64}", since=NOW.timestamp() - 86_400),
            Kek(
                provider="former-cloud",
                target=f"sha256:{'2' * 64}",
                since=0.0,
                named=f"sha256:{'3' * 64}",
                former=(f"sha256:{'3' * 64}",),
            ),
        ),
    ),
    in_force=replace(IN_FORCE, resources=(*IN_FORCE.resources, ("events", (CLOUD, NEW)))),
)
"""Nothing is left but a proof in three parts, of which one is done; one resource is written with KMS."""

IDLE = Facts(at=NOW, etcd=EtcdFacts(0.001, 5, 1, (replace(BUSY.etcd.members[0], db_size=2**20),)))
