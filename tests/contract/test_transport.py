"""The transport on a real Redis, without Celery: each message is acknowledged or dropped, and the next one comes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as redis_client
from kombu import transport as kombu_transport
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from structlog.testing import capture_logs

from kube_rewrap.worker.queue import transport
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, EXCHANGE
from tests.servers.redis import RedisServer
from tests.service.harness import celery_message
from tests.service.hostile import ARGUMENTS, PAUSE, changed, good, wrapped

QUEUES = [Queue(name, Exchange(EXCHANGE, type="direct"), routing_key=name) for name in (CONTROL, BATCHES)]


class Consumer:
    """Takes at most two messages at a time, as a worker with two children."""

    def __init__(self, url: str) -> None:
        self.taken: list[Any] = []
        self.on_message: Callable[[Any], None] = self.taken.append
        # BRPOP waits that long, and so does the end of a test.
        options = {"polling_interval": 0.1}
        self.connection = Connection(url, transport=transport.GuardedTransport, transport_options=options)
        self.channel: transport.GuardedChannel = self.connection.channel()
        self.connection.Consumer(QUEUES, channel=self.channel, on_message=self._take, prefetch_count=2).consume()

    def _take(self, message: Any) -> None:
        self.on_message(message)

    def drain(self, times: int) -> None:
        for _ in range(times):
            with suppress(socket.timeout):
                self.connection.drain_events(timeout=0.3)


@pytest.fixture
def client(redis: RedisServer) -> Iterator[redis_client.Redis]:
    with redis_client.Redis.from_url(redis.url) as one:
        yield one


@pytest.fixture
def consumer(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consumer]:
    monkeypatch.setattr(transport, "counters", [])
    monkeypatch.setattr(transport, "in_progress", [])
    one = Consumer(redis.url)
    yield one
    one.connection.close()


@pytest.fixture
def counted(consumer: Consumer) -> list[str]:
    del consumer
    outcomes: list[str] = []
    transport.counters.append(lambda done: outcomes.append(str(done["outcome"])))
    return outcomes


def push(client: redis_client.Redis, *messages: str) -> None:
    client.lpush(CONTROL, *messages)


def pause(identity: str) -> str:
    return celery_message(PAUSE, ARGUMENTS, identity)


def ids(consumer: Consumer) -> list[str]:
    return [message.headers["id"] for message in consumer.taken]


def test_what_is_refused_costs_no_place_and_the_next_one_comes(
    client: redis_client.Redis, consumer: Consumer, counted: list[str]
) -> None:
    null = json.dumps(changed(("body",), wrapped(b"null")))
    push(client, null, null, "not JSON", json.dumps(changed(("properties", "delivery_tag"), None)), pause("good"))
    with capture_logs() as logs:
        consumer.drain(6)
    assert ids(consumer) == ["good"]
    assert counted == ["refused"] * 4
    assert [(line["event"], line["bytes"]) for line in logs][:2] == [("message.malformed", len(null))] * 2
    assert client.hlen("unacked") == 1


def test_whatever_taking_a_message_raises_the_message_is_dropped(
    client: redis_client.Redis, consumer: Consumer, counted: list[str]
) -> None:
    def fail(_: object) -> None:
        raise KeyError("MARKER")

    consumer.on_message = fail
    push(client, *(pause(f"m-{number}") for number in range(5)))
    with capture_logs() as logs:
        consumer.drain(6)
    assert counted == ["failed"] * 5
    assert [line["because"] for line in logs] == ["Celery raised KeyError on its delivery"] * 5
    assert "MARKER" not in repr(logs)
    assert (client.llen(CONTROL), client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0, 0)


def test_a_lost_connection_is_not_the_messages_fault(client: redis_client.Redis, consumer: Consumer) -> None:
    def lose(_: object) -> None:
        raise redis_client.ConnectionError("gone")

    consumer.on_message = lose
    push(client, pause("m-1"))
    with pytest.raises(redis_client.ConnectionError):
        consumer.drain(2)
    assert client.hlen("unacked") == 1


def test_what_nothing_works_on_any_more_is_dropped_at_the_second_look(
    client: redis_client.Redis, consumer: Consumer, counted: list[str]
) -> None:
    push(client, *(pause(f"m-{number}") for number in range(4)))
    consumer.drain(4)
    assert ids(consumer) == ["m-0", "m-1"]  # that is all that it may take
    at_work = [consumer.taken[0].delivery_tag]
    transport.in_progress.append(lambda: at_work)
    assert consumer.channel.takes_messages()
    consumer.channel.drop_lost()
    assert not consumer.channel.takes_messages()
    with capture_logs() as logs:
        consumer.channel.drop_lost()
    assert [line["because"] for line in logs] == ["Celery did not acknowledge it, and has no task for it"]
    assert counted == ["failed"]
    consumer.drain(2)
    assert ids(consumer) == ["m-0", "m-1", "m-2"]


def test_what_goes_back_passes_the_gate_again_and_an_expired_one_stays_away(
    client: redis_client.Redis, consumer: Consumer
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    push(client, pause("m-1"), json.dumps(changed(("headers", "expires"), soon)))
    consumer.drain(3)
    assert ids(consumer) == ["m-1", "hostile-1"]
    assert [message.headers["expires"] for message in consumer.taken] == [None, None]
    while datetime.now(UTC).isoformat() < soon:
        consumer.drain(1)
    for message in list(consumer.taken):
        message.reject(requeue=True)
    consumer.drain(3)
    assert ids(consumer)[2:] == ["m-1"]
    assert client.hlen("unacked") == 1


def test_a_message_does_not_say_when_it_is_tried_and_only_some_wait(
    client: redis_client.Redis, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_MOST_WAITING", 1)
    again = json.dumps(changed(("headers", "retries"), 3))
    push(client, again, again)
    consumer.drain(3)
    first, second = (message.headers["eta"] for message in consumer.taken)
    assert timedelta(0) < datetime.fromisoformat(first) - datetime.now(UTC) <= timedelta(seconds=10)
    assert second is None


def test_lists_of_the_wrong_kind_do_not_stop_the_work(client: redis_client.Redis, consumer: Consumer) -> None:
    client.set("unacked", "x")
    client.set("unacked_index", "x")
    push(client, pause("m-1"), pause("m-2"), pause("m-3"))
    with capture_logs() as logs:
        consumer.channel.qos.restore_visible(interval=1)
        consumer.drain(3)
    assert ids(consumer) == ["m-1", "m-2"]
    assert {line["event"] for line in logs} == {"message.not_kept"}


def test_where_a_message_goes_is_not_read_from_redis(client: redis_client.Redis, consumer: Consumer) -> None:
    client.sadd(f"_kombu.binding.{EXCHANGE}", f"{CONTROL}\x06\x16\x06\x16elsewhere", "\x06\x16")
    with consumer.connection.Producer(channel=consumer.channel) as producer:
        producer.publish(
            [[], {}, {}], exchange=EXCHANGE, routing_key=CONTROL, headers=good()["headers"], declare=QUEUES
        )
    assert client.exists("elsewhere") == 0
    consumer.drain(2)
    assert ids(consumer) == ["hostile-1"]
    assert [key for key in client.keys("_kombu.*") if key != f"_kombu.binding.{EXCHANGE}".encode()] == []


def test_the_pulse_says_when_no_message_could_be_taken_for_long() -> None:
    now = 0.0
    pulse = transport.Pulse(lambda: now)
    now = 30.0
    assert pulse.trouble() == ""
    now = 31.0
    assert pulse.trouble() == "this worker could take no message for 31 s"
    pulse.beat()
    assert pulse.trouble() == ""


@pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel"])
def test_a_scheme_that_a_connection_used_before_has_this_transport_too(scheme: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kombu_transport, "TRANSPORT_ALIASES", dict(kombu_transport.TRANSPORT_ALIASES))
        patch.setitem(kombu_transport.TRANSPORT_ALIASES, scheme, "kombu.transport.redis:Transport")
        kombu_transport._transport_cache.clear()
        before = Connection(f"{scheme}://localhost").get_transport_cls()
    transport.register()
    after = Connection(f"{scheme}://localhost").get_transport_cls()
    assert not issubclass(before, transport.GuardedTransport)
    assert issubclass(after, transport.GuardedTransport)
