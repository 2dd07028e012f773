"""The service does what it is for: the key changes, and without another hand all is rewritten and proven."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import redis as redis_client

from kube_rewrap.cli.demo.registry import Shape, _builtin
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.queue import gate
from kube_rewrap.worker.queue.names import BATCHES, CONTROL
from tests.acceptance.command import Command
from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.redis import RedisServer
from tests.service.harness import NEW, NEWEST, OLD, Service, celery_message, send_by_stock_client, service
from tests.service.hostile import assert_honest_work_is_done, corpus, kept, mutations, push, with_time_limits
from tests.service.http import readiness

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


def foreign(key: str) -> bytes:
    """An object as kube-apiserver would still write it under the old key."""
    _, _, _, namespace, name = key.split("/")
    return Chain([OLD]).seal(_builtin("secrets", namespace, name, Shape(payload=200)), key.encode())


def test_a_new_key_in_the_file_is_followed_to_its_proof_without_another_hand(cluster: Service) -> None:
    cluster.anew = True
    cluster.fill(5_000)
    cluster.start("scheduler")
    places = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [cluster.start("worker", REWRAP_METRICS_ADDR=place) for place in places]
    assert cluster.wait_finished(1)["state"] == "complete"
    cluster.wait(lambda: [readiness(place) for place in places] == [200, 200], "both workers take messages")
    cluster.configure(NEW, OLD)
    ended = cluster.wait_finished(2)
    assert (ended["state"], ended["rewritten"]) == ("complete", 5_000)
    assert cluster.opened_by(NEW) == 5_000
    # A page comes before the line that says so; which of the two finishes a batch depends on the machine.
    cluster.wait(lambda: all(worker.said("batch.page") for worker in workers), "both workers worked on batches")
    verified = cluster.run("verify")
    assert (verified.code, verified.document["complete"]) == (0, True)
    # Each campaign ended once; all processes end when they are told to; the audit log is whole.
    assert len({line["campaign"] for line in cluster.finished()}) == len(cluster.finished())
    assert [daemon.stop() for daemon in cluster.daemons] == [0, 0, 0]
    audit = cluster.run("audit-log", "verify")
    assert (audit.code, audit.document["whole"]) == (0, True)


def test_a_message_by_redis_alone_starts_a_campaign_once_however_often_it_comes(cluster: Service) -> None:
    cluster.fill(400, namespaces=4)
    cluster.configure(OLD)
    cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait_finished(1)
    message = celery_message(
        "rewrap.campaign.start", {"id": "by-hand-1", "resources": ["secrets"], "namespaces": ["team-001"]}, "m-1"
    )
    with redis_client.Redis.from_url(cluster.redis.url) as client:
        for _ in range(3):
            client.lpush(CONTROL, message)
        ended = cluster.wait_finished(2)
        assert (ended["state"], ended["campaign"]) == (
            "complete",
            cluster.run("campaign", "show", "by-hand-1").document["campaign"]["id"],
        )
        # Late and made-up messages about batches of campaigns that have ended, or never were.
        for name in (ended["campaign"], "never-was"):
            for task in ("rewrap.batch.rewrite", "rewrap.batch.prove"):
                client.lpush(BATCHES, celery_message(task, {"campaign": name, "number": 0}, f"{name}-{task}", BATCHES))
        worker = cluster.daemons[1]
        cluster.wait(lambda: len(worker.said("batch.dropped")) >= 4, "late messages were dropped")
    assert len(cluster.finished()) == 2


def test_hostile_messages_change_nothing_and_the_worker_lives_on(cluster: Service) -> None:
    cluster.fill(40, namespaces=2)
    forged = kept()[:90]
    with redis_client.Redis.from_url(cluster.redis.url) as client:
        # What others may have written where Redis keeps unacknowledged messages, and where kombu looks for queues.
        client.hset("unacked", mapping={f"forged-{number}": raw for number, raw in enumerate(forged)})
        client.zadd("unacked_index", {f"forged-{number}": number for number in range(len(forged))})
        client.sadd("_kombu.binding.rewrap", CONTROL, "\x06\x16\x06\x16", f"{CONTROL}\x06\x16\x06\x16elsewhere")
    place = f"127.0.0.1:{free_ports(1)[0]}"
    cluster.start("scheduler")
    worker = cluster.start("worker", REWRAP_METRICS_ADDR=place)
    cluster.wait_finished(1)
    before = {one.key: one.value for one in cluster.etcd.admin().read("/registry/")}
    long = "MARKER" * 10_000
    arguments: list[tuple[str, dict[str, object]]] = [
        ("rewrap.campaign.start", {"resources": ["../../secrets"]}),
        ("rewrap.campaign.start", {"namespaces": ["kube-system/../x"]}),
        ("rewrap.campaign.start", {"reason": long}),
        ("rewrap.campaign.start", {"rate": -1, "surprise": long}),
        ("rewrap.campaign.cancel", {"campaign": "/kube-rewrap/v1/campaigns/"}),
        ("rewrap.campaign.pause", {"campaign": "x", "more": 1}),
    ]
    rows = [(CONTROL, celery_message(task, given, f"m-{given}"[:9]).encode()) for task, given in arguments]
    rows += [(queue, raw) for _, queue, raw in corpus()]
    rows += mutations(seed=7, count=300)
    for number, some in enumerate(rows[at : at + 200] for at in range(0, len(rows), 200)):
        push(cluster, some)
        assert_honest_work_is_done(cluster, f"honest-{number}")
        cluster.wait(lambda: readiness(place) == 200, "the worker is ready")
    # Another child may still be at work on a message that came before the honest one.
    cluster.wait(lambda: len(worker.said("message.refused")) >= len(arguments), "all strange arguments are refused")
    assert worker.said("audit") == []  # they can't turn the log of what was done over

    def told() -> dict[str, int]:
        return {line["sha256"]: line["bytes"] for line in worker.said("message.malformed")}

    assert {sha256(raw).hexdigest(): len(raw) for raw in (b"null", b"[" * 300_000)}.items() <= told().items()
    strange = [raw for raw in forged if raw and isinstance(gate.judge_copy(raw, datetime.now(UTC)), gate.Refused)]
    assert len(strange) > 80
    # What was kept unacknowledged comes by a look of its own, in no order with the queues.
    wanted = {sha256(raw).hexdigest() for raw in strange}
    cluster.wait(lambda: wanted <= told().keys(), "what Redis keeps of others is refused")
    with redis_client.Redis.from_url(cluster.redis.url) as client:
        cluster.wait(
            lambda: not [tag for tag in client.hkeys("unacked") if tag.startswith(b"forged")], "Redis keeps none of it"
        )
        assert not client.exists("elsewhere")
    send_by_stock_client(cluster, "rewrap.campaign.start", {"id": "still-alive"})
    cluster.wait_finished(2)
    assert {one.key: one.value for one in cluster.etcd.admin().read("/registry/")} == before
    assert cluster.run("campaign", "show", "still-alive").document["state"] == "complete"
    assert "MARKERMARKER" not in "".join(daemon.text for daemon in cluster.daemons)


@pytest.mark.chaos
def test_no_message_sets_a_time_limit_that_kills_children_and_burns_reservations(cluster: Service) -> None:
    cluster.variables["REWRAP_RATE"] = "40"
    cluster.fill(600)
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    worker = cluster.start("worker")
    cluster.wait(lambda: cluster.opened_by(NEW) > 0, "the first swap")
    push(cluster, with_time_limits(cluster.campaigns()[0]["id"], 150))
    ended = cluster.wait_finished(1)
    assert (ended["state"], ended["rewritten"]) == ("complete", 600)
    # A slice settles its budget after the record that ends its batch, and before it gives up its claim.
    cluster.wait_no_claim(str(ended["campaign"]))
    [budget] = [row for row in cluster.run("keys").document["keys"] if row["names"] == ["new-key"]]
    # A child that is killed in a slice commits nothing of it, and loses what it had reserved.
    assert budget["committed"] == 600
    assert budget["reserved"] <= 620
    cluster.wait(lambda: len(worker.said("message.malformed")) >= 150, "all messages with time limits are refused")
    assert len(worker.said("message.malformed")) == 150


def test_a_campaign_is_paused_resumed_and_cancelled_in_the_middle(cluster: Service) -> None:
    # It is cancelled, so the rate costs no time; it leaves 40 s for what happens to it in the middle.
    cluster.variables["REWRAP_RATE"] = "30"
    cluster.fill(1_200)
    cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait_finished(1)
    cluster.configure(NEW, OLD)
    cluster.wait(lambda: cluster.opened_by(NEW) > 0, "the first swap")
    name = cluster.campaigns()[0]["id"]

    send_by_stock_client(cluster, "rewrap.campaign.pause", {"campaign": name})
    worker = cluster.daemons[1]
    cluster.wait(lambda: cluster.campaign(name)["state"] == "paused", "the message is heeded")
    cluster.wait_no_claim(name)
    rewritten = cluster.opened_by(NEW)
    shown = cluster.run("campaign", "show", name).document
    assert (shown["state"], shown["because"], shown["workers"]) == ("paused", "paused by an operator", [])
    refused = cluster.run("run")
    assert (refused.code, refused.error["type"]) == (4, "BusyError")
    assert cluster.opened_by(NEW) == rewritten

    assert cluster.run("campaign", "resume", name).code == 0
    cluster.wait(lambda: cluster.opened_by(NEW) > rewritten, "it goes on")
    send_by_stock_client(cluster, "rewrap.campaign.cancel", {"campaign": name})
    waited = cluster.run("campaign", "wait", name, "--timeout", "60")
    assert (waited.code, waited.document["state"]) == (3, "cancelled")
    assert 0 < cluster.opened_by(NEW) < 1_200
    assert worker.said("batch.failed") == []
    again = cluster.run("campaign", "resume", name)
    assert (again.code, again.error["message"]) == (4, f"resume {name}: the campaign has ended: it is cancelled")


def test_a_comment_in_the_file_changes_nothing_about_a_campaign_and_it_comes_to_its_proof(cluster: Service) -> None:
    def comment() -> None:
        scheduler = cluster.daemons[0]
        adopted = len(scheduler.said("campaign.adopted"))
        cluster.file.write_bytes(cluster.file.read_bytes() + b"\n")
        cluster.wait(lambda: len(scheduler.said("campaign.adopted")) > adopted, "it was adopted")

    cluster.variables["REWRAP_RATE"] = "50"
    cluster.fill(600)
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait(lambda: cluster.opened_by(NEW) > 0, "the first swap")
    name = cluster.campaigns()[0]["id"]
    comment()
    rewritten = cluster.opened_by(NEW)
    cluster.wait(lambda: cluster.opened_by(NEW) > rewritten, "work under the file with the comment")
    assert cluster.run("campaign", "pause", name).code == 0
    comment()
    assert cluster.run("campaign", "resume", name).code == 0
    ended = cluster.wait_finished(1)
    assert (ended["campaign"], ended["state"], ended["rewritten"]) == (name, "complete", 600)


def test_a_change_in_the_middle_takes_over_and_keeps_what_was_done(cluster: Service) -> None:
    cluster.variables["REWRAP_RATE"] = "80"
    cluster.fill(800)
    cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait_finished(1)
    cluster.configure(NEW, OLD)
    cluster.wait(lambda: cluster.opened_by(NEW) > 20, "some are under the first new key")
    cluster.configure(NEWEST, NEW, OLD)
    ended = cluster.wait_finished(2)
    assert ended["state"] == "complete"
    assert cluster.opened_by(NEWEST) == 800
    states = [row["state"] for row in cluster.campaigns()]
    assert states == ["complete", "superseded", "complete"]


def test_a_campaign_that_run_left_behind_is_finished_by_the_service(cluster: Service) -> None:
    cluster.fill(600)
    cluster.configure(NEW, OLD)
    command = Command(cluster.directory, environment={**cluster.environment, "REWRAP_RATE": "80"})
    with command.start("run", "-o", "json") as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGINT)
        assert running.end().code == 3
    assert 0 < cluster.opened_by(NEW) < 600
    cluster.start("scheduler")
    cluster.start("worker")
    first = cluster.wait_finished(1)
    assert (first["state"], first["rewritten"]) == ("complete", 600)
    assert cluster.opened_by(NEW) == 600


def test_what_a_lagging_apiserver_writes_under_the_old_key_is_repaired_and_counted(cluster: Service) -> None:
    cluster.fill(200, namespaces=4)
    cluster.configure(NEW, OLD)
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait_finished(1)
    late = "/registry/secrets/team-001/late"
    cluster.etcd.admin().put(late, foreign(late))
    cluster.wait(lambda: cluster.opened_by(NEW, late) == 1, "the late write is under the new key")
    assert [line["key"] for line in scheduler.said("drift.found")] == [late]
    cluster.wait_finished(2)
    cluster.wait_observed(OLD, 1)
    cluster.wait_observed(NEW, 201)
    observed = {row["names"][0]: row["observed"] for row in cluster.run("keys").document["keys"]}
    assert observed == {"new-key": 201, "old-key": 1}
    assert cluster.campaigns()[0]["because"].startswith("a scan at revision")
    # Any key can be written into etcd: where no namespace can be, the resource is repaired, and nothing waits for it.
    strange = "/registry/secrets/Team_A/late"
    cluster.etcd.admin().put(strange, foreign(strange))
    cluster.wait(lambda: cluster.opened_by(NEW, strange) == 1, "it is under the new key")
    cluster.wait_finished(3)
    assert scheduler.said("request.put_off") == []
    # The log of a process has a line for each entry; the first repair is entered about a second after its end.
    cluster.wait(lambda: scheduler.said("audit", entry_event="drift.repaired"), "the repair is in the audit log")
    events = [entry["event"] for entry in cluster.run("audit-log", "list", "--limit", "0").document["entries"]]
    assert [event for event in events if event.startswith(("campaign", "drift"))] == [
        "campaign.planned",
        "campaign.finished",
        "drift.repaired",
    ]
