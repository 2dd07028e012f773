"""Measures what rewrap's own records cost: etcd, the process that reads them, and the network between them.

Each operation runs in its own process, on few and on many records, under a state prefix for each number of them.
"""

from __future__ import annotations

import asyncio
import re
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from urllib.request import urlopen

from bench.ground import Ground
from kube_rewrap.config.settings.schema import EtcdSettings, KeyspaceSettings, Settings
from kube_rewrap.scheduler.campaigns.status import look, look_at_all
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Put, Store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.audit_chain import BEGINNING, Entry, Head
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.followed import Followed
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import Reason

SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
AT = "2026-01-01T00:00:00+00:00"
NAME = "20260101-000000-0000"
_BATCHES_EACH = 20
_LOOKS = 50
_TIMES = 10
_PER_COMMIT = 64
_CPU = "process_cpu_seconds_total"
_SENT = "etcd_network_client_grpc_sent_bytes_total"


@dataclass(frozen=True, slots=True)
class Case:
    """An operation, on how many records, how they are made, and how often the operation reads them."""

    few: int
    many: int
    puts: Callable[[Keyspace, int], Iterable[Put]]
    work: Callable[[Store, Settings], Awaitable[None]]
    times: int = 1


def campaign(name: str, state: CampaignState, batches: int) -> Campaign:
    return Campaign(
        id=name, state=state, generation="g", scope=Scope(("secrets",)), batches=batches, planned_at=AT, because="why"
    )


def checkpoint(name: str, number: int) -> Checkpoint:
    namespaces = tuple((f"team-{number}-{each}", 50) for each in range(20))
    keys = KeyRange.of_prefix(SECRETS.start + b"team-%d-" % number)
    spec = BatchSpec(
        campaign=name, number=number, resource="secrets", range=keys, generation="g", namespaces=namespaces
    )
    return Checkpoint(spec=spec, report=BatchReport(objects=1000, rewritten=1000))


def campaigns(space: Keyspace, count: int) -> Iterator[Put]:
    """Ended campaigns with some batches, and an object in quarantine, each."""
    for number in range(count):
        name = f"20260101-{number:06d}-0000"
        yield Put(space.campaign(name), encode(campaign(name, CampaignState.COMPLETE, _BATCHES_EACH).to_json()))
        for each in range(_BATCHES_EACH):
            yield Put(space.batch(name, each), encode(checkpoint(name, each).to_json()))
        yield from quarantine(space, 1, name)


def batches(space: Keyspace, count: int) -> Iterator[Put]:
    yield Put(space.campaign(NAME), encode(campaign(NAME, CampaignState.RUNNING, count).to_json()))
    for number in range(count):
        yield Put(space.batch(NAME, number), encode(checkpoint(NAME, number).to_json()))


def parts(space: Keyspace, count: int) -> Iterator[Put]:
    for number in range(count):
        ranges = (ResourceRange("secrets", SECRETS),)
        part = ProofPart(
            campaign=NAME,
            number=number,
            revision=1,
            generation="g",
            ranges=ranges,
            of=count,
            found=Inventory(1, ()) if number % 2 else None,
        )
        yield Put(space.proof(NAME, number), encode(part.to_json()))


def quarantine(space: Keyspace, count: int, name: str = NAME) -> Iterator[Put]:
    for number in range(count):
        key = SECRETS.start + b"team/%d" % number
        value = QuarantinedObject(key, Reason.KMS_REFUSED, "the plugin refused the wrapped key", number)
        yield Put(space.quarantined(name, key), encode(value.to_json()))


def entries(space: Keyspace, count: int) -> Iterator[Put]:
    """A whole log. `AuditLog` keeps 10,000 entries; another client of etcd may write any number."""
    previous = BEGINNING
    for number in range(1, count + 1):
        entry = Entry(
            number=number,
            at=AT,
            event="campaign.finished",
            campaign=NAME,
            actor="rewrap run host:1",
            detail={"state": "complete", "rewritten": number, "because": "a scan read all objects"},
            previous=previous,
        ).sealed()
        previous = entry.hash
        yield Put(space.audit_entry(number), encode(entry.to_json()))
    yield Put(space.audit_head, encode(Head(count, previous, 1).to_json()))


async def list_campaigns(_store: Store, settings: Settings) -> None:
    for _ in range(_TIMES):
        await look_at_all(settings)


async def show_campaign(_store: Store, settings: Settings) -> None:
    for _ in range(_TIMES):
        await look(settings, NAME)


async def clean_up(store: Store, settings: Settings) -> None:
    await Campaigns(store, Keyspace(settings.keyspace.state_prefix)).forget_old()


async def look_at_batches(store: Store, settings: Settings) -> None:
    """What a round of the loop reads and adds up, with one batch changed since the round before."""
    checkpoints = Checkpoints(store, Keyspace(settings.keyspace.state_prefix))
    followed = Followed(checkpoints.changed)
    for number in range(_LOOKS):
        BatchReport.total(one.report for one in await followed.look(NAME))
        await checkpoints.save(followed[number])


async def look_at_parts(store: Store, settings: Settings) -> None:
    """The same of a proof's parts."""
    proofs = Proofs(store, Keyspace(settings.keyspace.state_prefix))
    followed = Followed(proofs.changed)
    for number in range(_LOOKS):
        await followed.look(NAME)
        await proofs.save(followed[number])


async def read_quarantine(store: Store, settings: Settings) -> None:
    records = QuarantineRecords(store, Keyspace(settings.keyspace.state_prefix), NAME)
    for _ in range(_TIMES):
        _read = [one async for one in records.all()]


async def verify_log(store: Store, settings: Settings) -> None:
    if (await AuditLog(store, Keyspace(settings.keyspace.state_prefix), "bench").verify()).faults:
        raise RuntimeError("the log is not whole")


CASES = {
    "campaign list": Case(250, 1_000, campaigns, list_campaigns, _TIMES),
    "clean-up": Case(250, 1_000, campaigns, clean_up),
    "campaign show": Case(250, 1_000, batches, show_campaign, _TIMES),
    "loop: batches": Case(250, 1_000, batches, look_at_batches, _LOOKS),
    "loop: parts": Case(250, 1_000, parts, look_at_parts, _LOOKS),
    "quarantine": Case(2_500, 10_000, quarantine, read_quarantine, _TIMES),
    "audit-log verify": Case(25_000, 100_000, entries, verify_log),
}


async def compare(place: Ground) -> None:
    """Print the table; a ratio compares the cost for each record with that on few of them."""
    print(f"{'operation':>17} {'records':>8} {'etcd µs':>8} {'ratio':>6} {'own µs':>8} {'ratio':>6}", end="")
    print(f" {'bytes':>7} {'s':>7} {'MiB':>5}")
    url = place.settings.etcd.endpoints[0]
    for number, (name, case) in enumerate(CASES.items()):
        costs = [await _measure(url, name, records, f"/bench-{number}-{records}") for records in (case.few, case.many)]
        for records, cost in zip((case.few, case.many), costs, strict=True):
            print(
                f"{name:>17} {records:8,} {cost.etcd:8.1f} {cost.etcd / costs[0].etcd:6.2f} {cost.own:8.1f} "
                f"{cost.own / costs[0].own:6.2f} {cost.sent:7.0f} {cost.seconds:7.2f} {cost.memory:5.0f}",
                flush=True,
            )


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU of etcd and our own, and bytes that etcd sent, for each record and time; seconds of one time.

    `memory` is the peak of the process in MiB.
    """

    etcd: float
    own: float
    sent: float
    seconds: float
    memory: float


async def _measure(url: str, name: str, records: int, prefix: str) -> Cost:
    case = CASES[name]
    async with open_store(EtcdSettings(endpoints=(url,)), prefix) as store:
        puts = iter(case.puts(Keyspace(prefix), records))
        while some := list(islice(puts, _PER_COMMIT)):
            await store.commit([], some)
    cpu, sent = _metric(url, _CPU), _metric(url, _SENT)
    own, seconds, memory = _work_apart(name, url, prefix)
    cpu, sent = _metric(url, _CPU) - cpu, _metric(url, _SENT) - sent
    reads = records * case.times
    return Cost(cpu / reads * 1e6, own / reads * 1e6, sent / reads, seconds / case.times, memory)


def _work_apart(*words: str) -> list[float]:
    """Run `main` in a process of its own; returns what it prints."""
    done = subprocess.run([sys.executable, "-m", "bench.records", *words], capture_output=True, check=True)
    return [float(one) for one in done.stdout.split()]


def _metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics") as answer:  # noqa: S310 - our own etcd
        (value,) = re.findall(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(value)


def main(name: str, url: str, prefix: str) -> None:
    """Do one operation, and print its CPU seconds, seconds and peak MiB."""
    settings = Settings(etcd=EtcdSettings(endpoints=(url,)), keyspace=KeyspaceSettings(state_prefix=prefix))

    async def work() -> None:
        async with open_store(settings.etcd, prefix) as store:
            before, started = time.process_time(), time.perf_counter()
            await CASES[name].work(store, settings)
            own, seconds = time.process_time() - before, time.perf_counter() - started
            print(own, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    asyncio.run(work())


if __name__ == "__main__":
    main(*sys.argv[1:])
