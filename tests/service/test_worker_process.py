"""A worker by itself, as a process: what it makes of its environment, of strange messages, and of Redis' absence."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kube_rewrap.worker.queue.names import CONTROL
from tests.acceptance.command import ROOT, start_program
from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.redis import DEFAULT, RedisOptions, RedisServer
from tests.service.harness import NEW, OLD, Daemon, celery_message, service
from tests.service.http import readiness, shown, shown_when_up

pytestmark = pytest.mark.timeout(120)

EXAMPLE_ACL = ROOT / "deploy" / "redis" / "users.acl.example"

# What an operator's shell may hold for another application.
ELSEWHERE = {
    "APP": "nowhere.at_all",
    "BROKER_URL": "redis://127.0.0.1:1/0",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "CELERY_LOADER": "nowhere:Loader",
    "CELERY_CONFIG_MODULE": "nowhere",
}


def pickled(message: str) -> str:
    """The same message with a content type that nobody here decodes."""
    return json.dumps({**json.loads(message), "content-type": "application/x-python-serialize"})


def test_a_worker_says_in_json_what_was_wrong_and_tells_strange_messages_from_an_outage(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    place = f"127.0.0.1:{free_ports(1)[0]}"
    pause: dict[str, object] = {"campaign": "never-was", "id": "damaged"}
    etcd.admin().put("/kube-rewrap/v1/requests/damaged", b"no record")
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        one.anew = True
        worker = one.start("worker", REWRAP_METRICS_ADDR=place, **ELSEWHERE)
        for message in (
            celery_message("os.system", {"command": "true"}, "m-1"),
            pickled(celery_message("rewrap.campaign.pause", pause, "m-2")),
            celery_message("rewrap.campaign.pause", pause, "m-3"),
        ):
            one.redis.run("LPUSH", CONTROL, message)
        one.wait(lambda: worker.said("message.refused"), "the damaged record is told")
        assert [line["because"] for line in worker.said("message.malformed")] == [
            "it names a task that its queue does not have",
            "its content type and encoding are not those of JSON in UTF-8",
        ]
        assert "/requests/damaged" in worker.said("message.refused", task="rewrap.campaign.pause")[0]["because"]
        one.wait(lambda: readiness(place) == 200, "it is ready")
        one.redis.stop()
        one.wait(lambda: worker.said("broker.unavailable"), "it notices that Redis is away")
        one.wait(lambda: readiness(place) == 503, "it is not ready")
        one.redis.start()
        one.wait(lambda: worker.said("broker.available"), "it notices that Redis is back")
        one.wait(lambda: readiness(place) == 200, "it is ready again")
        worker.assert_said_once_an_outage("broker.unavailable", "broker.available")
        assert worker.said("library.message") == []
        # A fault that no message makes, and no reconnecting mends: the queue is no list any more.
        one.redis.run("SET", CONTROL, "x")
        one.wait(lambda: not worker.running, "the worker ends")
        assert worker.stop() == 1
        assert [line for line in worker.text.splitlines() if not line.startswith("{")] == []


def test_what_a_killed_worker_leaves_behind_says_nothing(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    place = f"127.0.0.1:{free_ports(1)[0]}"
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        one.anew = True
        worker = one.start("worker", REWRAP_METRICS_ADDR=place)
        one.wait(lambda: readiness(place) == 200, "it is ready")
        os.kill(worker.pid, signal.SIGSTOP)  # it starts no more children
        group = members(worker.pid)
        trackers = {pid for pid, command in group.items() if "semaphore_tracker import" in command}
        assert trackers
        for pid in group.keys() - trackers:
            os.kill(pid, signal.SIGKILL)
        one.wait(lambda: not worker.running and not members(worker.pid), "the trackers have removed the semaphores")
        assert [line for line in worker.text.splitlines() if not line.startswith("{")] == []


def members(group: int) -> dict[int, str]:
    """The processes of a group, each with its command line."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, FileNotFoundError):
            if os.getpgid(int(place.name)) == group:
                found[int(place.name)] = (place / "cmdline").read_text()
    return found


def test_a_worker_says_why_redis_can_not_be_used_as_plainly_as_the_scheduler(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    plain, secure = new_redis(RedisOptions()), new_redis(RedisOptions(tls=True))
    place = f"127.0.0.1:{free_ports(1)[0]}"
    with service(etcd, plain, tmp_path) as one:
        for url, because in (
            (plain.url.replace("redis:", "rediss:"), "it speaks no TLS; write redis:// for rediss://"),
            (secure.url.replace("rediss:", "redis:"), "it requires TLS; write rediss:// for redis://, "),
            (secure.url, "no trusted authority signed its certificate; give the one that did with --broker-cacert"),
        ):
            worker = one.start("worker", REWRAP_METRICS_ADDR=place, REWRAP_BROKER=url)
            one.wait(lambda: worker.said("broker.unavailable"), "the worker can't use Redis")  # noqa: B023 - at once
            assert f"no connection: {because}" in worker.said("broker.unavailable")[0]["because"]
            worker.stop()


def test_a_redis_that_repeats_the_password_in_its_error_gets_it_nowhere(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    redis = new_redis(RedisOptions(password=True, hello=False))
    places = [f"127.0.0.1:{port}" for port in free_ports(2)]
    with service(etcd, redis, tmp_path) as one:
        one.anew = True
        one.fill(20, namespaces=1)
        worker = one.start("worker", REWRAP_METRICS_ADDR=places[0], REWRAP_LOG_LEVEL="debug")
        scheduler = one.start("scheduler", REWRAP_METRICS_ADDR=places[1], REWRAP_LOG_LEVEL="debug")
        one.wait(lambda: worker.said("broker.unavailable") or worker.said("library.message"), "the worker is refused")
        one.wait(lambda: scheduler.said("queue.unavailable"), "the scheduler is refused")
        out = [worker.text, scheduler.text]
        for place, daemon in zip(places, (worker, scheduler), strict=True):
            out += [shown(place, path) for path in ("/metrics", "/healthz", "/readyz") if daemon.running]
        out += [str(one.run(*words)) for words in (("status",), ("run",), ("campaign", "start"), ("campaign", "list"))]
        assert worker.running
        because = "no connection to Redis; see the log: broker.unavailable"
        one.wait(lambda: because in shown(places[0], "/readyz"), "it says why it is not ready")
    assert [text for text in out if DEFAULT.password in text] == []
    assert "it refuses a command, or does not know it" in worker.text


def test_a_worker_of_celerys_own_command_works_as_the_user_in_deploy(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    """As docs/service.md has it, without a flag."""
    _, rules = EXAMPLE_ACL.read_text(encoding="utf-8").splitlines()[1].split("resetchannels ")
    with service(etcd, new_redis(RedisOptions(acl=f"resetchannels {rules}")), tmp_path) as one:
        one.configure(NEW, OLD)
        one.fill(20, namespaces=1)
        log = tmp_path / "celery.log"
        celery = str(Path(sys.executable).parent / "celery")
        words = [celery, "-A", "kube_rewrap.worker.queue.app", "worker"]
        worker = Daemon(
            start_program(words, {**os.environ, **one.environment}, log, log, anew=True, new_session=True), log
        )
        one.daemons.append(worker)
        one.stack.callback(worker.stop)
        one.start("scheduler")
        one.wait(lambda: one.finished() or not worker.running, "a campaign ends")
        assert worker.running, worker.text
        assert one.finished()[0]["state"] == "complete"
        assert worker.stop() == 0
        assert worker.said("library.message") == []


def test_who_cannot_use_its_file_is_not_ready_and_loses_nothing(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    """A worker and a scheduler alike; both come back by themselves."""
    sentence = "the configuration file can't be used; the log says configuration.unusable"
    places = [f"127.0.0.1:{port}" for port in free_ports(3)]
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        bad = tmp_path / "bad.json"
        one.configure(NEW, OLD, file=bad)
        one.configure(NEW, OLD)
        bad.chmod(0o644)
        one.fill(20, namespaces=1)
        idle = one.start("scheduler", REWRAP_METRICS_ADDR=places[0], REWRAP_ENCRYPTION_CONFIG=str(bad))
        worker = one.start("worker", REWRAP_METRICS_ADDR=places[1], REWRAP_ENCRYPTION_CONFIG=str(bad))
        one.wait(lambda: all(sentence in shown_when_up(place) for place in places[:2]), "neither is ready")
        leader = one.start("scheduler", REWRAP_METRICS_ADDR=places[2])
        one.wait(lambda: len(worker.said("batch.handed_back")) >= 3, "a batch is handed back again and again")
        assert leader.said("leader.elected")
        assert not idle.said("leader.elected")
        [rejected] = worker.said("configuration.unusable")
        assert "its mode 0644 gives group or others access" in rejected["because"]
        assert len(idle.said("configuration.unusable")) == 1
        bad.chmod(0o600)
        assert one.wait_finished(1)["state"] == "complete"
        assert leader.said("batch.parked") == []
        one.wait(lambda: [readiness(place) for place in places] == [200] * 3, "all are ready")
        assert len(worker.said("configuration.usable")) == 1


@pytest.mark.timeout(120)
def test_a_leader_whose_file_goes_bad_and_that_loses_its_lock_lets_another_one_lead(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    """What it saw of the file before it led says nothing about the file now."""
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        bad = tmp_path / "bad.json"
        one.configure(NEW, OLD, file=bad)
        one.configure(NEW, OLD)
        [port] = free_ports(1)
        place = f"127.0.0.1:{port}"
        first = one.start("scheduler", REWRAP_ENCRYPTION_CONFIG=str(bad), REWRAP_METRICS_ADDR=place)
        one.wait(lambda: first.said("leader.following"), "it leads")
        bad.write_text("garbage: [")
        one.wait(lambda: first.said("configuration.unusable"), "it says that the file can't be used")
        etcd.admin().delete("/kube-rewrap/v1/leader")
        one.wait(lambda: "can't be used" in shown_when_up(place), "it leads no more, and is not ready")
        second = one.start("scheduler")
        one.wait(lambda: second.said("leader.following"), "another one leads")
        assert len(first.said("leader.elected")) == 1
