"""Batches on their way to Celery: messages on a real Redis, no more than fit, and again when they are lost."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis as redis_client
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.schema import BrokerSettings, Settings
from kube_rewrap.scheduler.dispatch.celery import QueueDispatcher, Sender
from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, REWRITE
from kube_rewrap.worker.records.batch import BatchSpec
from tests.servers.redis import RedisOptions, RedisServer

NOBODY: frozenset[int] = frozenset()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def batch(number: int) -> BatchSpec:
    return BatchSpec(campaign="c", number=number, resource="secrets", range=KeyRange(b"a", b"b"), generation="sha256:0")


@pytest.fixture
def sender(redis: RedisServer) -> Iterator[Sender]:
    one = Sender(Settings(broker=BrokerSettings(url=SecretBytes(redis.url.encode()), timeout=1.0)))
    yield one
    one.close()


@pytest.fixture
def messages(redis: RedisServer) -> Iterator[redis_client.Redis]:
    with redis_client.Redis.from_url(redis.url) as client:
        yield client


def numbers(client: redis_client.Redis) -> list[int]:
    """Take all messages off the queue; returns the numbers of their batches, in order."""
    found = []
    while (raw := client.rpop(BATCHES)) is not None:
        assert isinstance(raw, bytes)
        message = json.loads(raw)
        assert message["headers"]["task"] == REWRITE
        assert message["headers"]["expires"] is None  # a worker's clock may be ahead
        _, arguments, _ = json.loads(base64.b64decode(message["body"]))
        assert arguments == {"campaign": "c", "number": arguments["number"]}
        found.append(arguments["number"])
    return found


async def test_a_message_names_the_campaign_and_the_batch_and_nothing_else(
    sender: Sender, messages: redis_client.Redis
) -> None:
    await QueueDispatcher(sender, Clock()).offer([batch(7)], NOBODY)
    assert numbers(messages) == [7]


async def test_no_more_are_sent_than_fit(sender: Sender, messages: redis_client.Redis) -> None:
    dispatcher, many = QueueDispatcher(sender, Clock()), [batch(number) for number in range(50)]
    await dispatcher.offer(many, NOBODY)
    assert numbers(messages) == [0, 1]
    await dispatcher.offer(many, NOBODY)
    assert numbers(messages) == []


async def test_a_batch_that_was_begun_overtakes_those_that_wait(sender: Sender, messages: redis_client.Redis) -> None:
    """Otherwise all batches would go round in slices, and end together."""
    dispatcher, many = QueueDispatcher(sender, Clock()), [batch(number) for number in range(50)]
    await dispatcher.offer(many, frozenset({0, 1}))
    waiting = messages.llen(BATCHES)
    await dispatcher.offer(many, frozenset({1, 2}))  # the slice of 0 has ended
    found = numbers(messages)
    assert (waiting, found[0], sorted(found[1:])) == (4, 0, [2, 3, 4, 5])


async def test_what_is_claimed_makes_room_and_is_not_sent(sender: Sender, messages: redis_client.Redis) -> None:
    dispatcher, many = QueueDispatcher(sender, Clock()), [batch(number) for number in range(50)]
    await dispatcher.offer(many, NOBODY)
    assert len(numbers(messages)) == 2
    await dispatcher.offer(many, frozenset({0, 1}))
    assert numbers(messages) == [2, 3, 4, 5]


async def test_parts_of_a_proof_follow_those_who_are_seen_at_work(sender: Sender, messages: redis_client.Redis) -> None:
    dispatcher = QueueDispatcher(sender, Clock())
    await dispatcher.offer_proof("c", range(50), NOBODY)
    assert messages.llen(BATCHES) == 2
    await dispatcher.offer_proof("c", range(50), frozenset({0, 1, 2}))
    assert messages.llen(BATCHES) == 2 + 6


async def test_a_batch_whose_slice_is_over_is_sent_again_at_once(sender: Sender, messages: redis_client.Redis) -> None:
    dispatcher = QueueDispatcher(sender, Clock())
    await dispatcher.offer([batch(0)], NOBODY)
    await dispatcher.offer([batch(0)], frozenset({0}))
    await dispatcher.offer([batch(0)], NOBODY)
    assert numbers(messages) == [0, 0]


async def test_a_message_that_was_lost_is_sent_again_later_and_later(
    sender: Sender, messages: redis_client.Redis
) -> None:
    clock = Clock()
    dispatcher = QueueDispatcher(sender, clock)
    sent_at = []
    with capture_logs() as logs:
        for _ in range(100):
            await dispatcher.offer([batch(0)], NOBODY)
            if numbers(messages):
                sent_at.append(clock.now - 100)
            clock.now += 1
    assert sent_at == [0, 4, 12, 28, 58, 88]
    # Said once, after a minute: nobody takes it up.
    assert [(one["event"], one["batch"]) for one in logs] == [("message.unanswered", 0)]


async def test_a_queue_that_nobody_empties_does_not_grow(sender: Sender, messages: redis_client.Redis) -> None:
    clock = Clock()
    dispatcher, many = QueueDispatcher(sender, clock), [batch(number) for number in range(50)]
    for _ in range(200):
        await dispatcher.offer(many, NOBODY)
        clock.now += 10
    assert messages.llen(BATCHES) <= 105


async def test_a_redis_that_is_away_is_said_once_and_its_return_too(
    sender: Sender, redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatcher = QueueDispatcher(sender, Clock())
    redis.stop()
    try:
        for _ in range(3):
            await dispatcher.offer([batch(0)], NOBODY)
        assert not sender.is_available
        with pytest.raises(UnavailableError, match=r"Redis at 127\.0\.0\.1:\d+ does not take messages"):
            await sender.length(BATCHES)
    finally:
        redis.start()
    assert await sender.length(BATCHES) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("queue.unavailable") == 1
    assert (said.out + said.err).count("queue.available") == 1


async def test_a_look_at_redis_sends_nothing_and_tells_one_that_would_take_no_message(
    sender: Sender, messages: redis_client.Redis
) -> None:
    seen = [sender.is_available]
    for room in ("0", "1", "0"):
        messages.config_set("maxmemory", room)
        await sender.probe()
        seen.append(sender.is_available)
    assert seen == [None, True, False, True]
    # What a failover may leave behind: a replica that answers and takes no writes.
    messages.slaveof("127.0.0.1", 1)
    try:
        await sender.probe()
        seen.append(sender.is_available)
    finally:
        messages.slaveof()
    await sender.probe()
    assert [*seen[4:], sender.is_available] == [False, True]
    assert (messages.llen(BATCHES), messages.llen(CONTROL)) == (0, 0)


async def test_a_look_at_redis_takes_no_right_beyond_those_of_the_user_in_deploy(
    new_redis: Callable[[RedisOptions], RedisServer],
) -> None:
    example = (Path(__file__).parents[2] / "deploy" / "redis" / "users.acl.example").read_text(encoding="utf-8")
    _, rules = example.splitlines()[1].split("resetchannels ")
    redis = new_redis(RedisOptions(acl=f"resetchannels {rules}"))
    one = Sender(Settings(broker=BrokerSettings(url=SecretBytes(redis.url.encode()), timeout=1.0)))
    await one.probe()
    one.close()
    assert one.is_available is True


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("redis://:{wrong}@127.0.0.1:{port}/0", "it refuses the user or the password of --broker (REWRAP_BROKER)"),
        (
            "redis://127.0.0.1:{port}/0",
            "it requires a password, and --broker has none; write redis://USER:PASSWORD@HOST in REWRAP_BROKER",
        ),
        ("rediss://:{wrong}@127.0.0.1:{port}/0", "it speaks no TLS; write redis:// for rediss://"),
        ("redis://:{wrong}@127.0.0.1:1/0", "it refuses connections; does it run?"),
        ("redis://:{wrong}@no-such-host.invalid:{port}/0", "its name can't be resolved"),
    ],
    ids=["a wrong password", "no password", "TLS without need", "nothing listens", "no such name"],
)
async def test_what_is_wrong_with_redis_is_said_by_its_place_in_a_sentence_of_ours(
    new_redis: Callable[[RedisOptions], RedisServer], url: str, sentence: str
) -> None:
    text = url.format(wrong="CanaryPassword", port=new_redis(RedisOptions(password=True)).port)
    place = text.partition("://")[2].rpartition("@")[2].removesuffix("/0")
    one = Sender(Settings(broker=BrokerSettings(url=SecretBytes(text.encode()), timeout=2.0)))
    with capture_logs() as logs, pytest.raises(UnavailableError) as caught:
        await one.send("rewrap.campaign.start", {}, CONTROL)
    one.close()
    assert str(caught.value) == f"Redis at {place} does not take messages: {sentence}; check --broker"
    [line] = [line for line in logs if line["event"] == "queue.unavailable"]
    assert (line["broker"], line["because"]) == (place, sentence)
    assert "CanaryPassword" not in repr(logs)


async def test_a_redis_with_tls_is_recognised_and_a_missing_certificate_named(
    new_redis: Callable[[RedisOptions], RedisServer],
) -> None:
    redis = new_redis(RedisOptions(tls=True))
    assert redis.certificates is not None
    plain = BrokerSettings(url=SecretBytes(redis.url.replace("rediss:", "redis:").encode()))
    bare = BrokerSettings(url=SecretBytes(redis.url.encode()), cacert=str(redis.certificates.cacert))
    for settings, sentence in (
        (plain, "it requires TLS; write rediss:// for redis://"),
        (bare, "client certificate"),  # its alert, or the end of the connection, whichever is read first
    ):
        one = Sender(Settings(broker=settings))
        with pytest.raises(UnavailableError, match=re.escape(sentence)):
            await one.length(CONTROL)
        one.close()


async def test_a_refusal_is_an_error_at_once(new_redis: Callable[[RedisOptions], RedisServer]) -> None:
    """kombu would try again for longer than the time-out here."""
    url = f"redis://:wrong@127.0.0.1:{new_redis(RedisOptions(password=True)).port}/0"
    one = Sender(Settings(broker=BrokerSettings(url=SecretBytes(url.encode()), timeout=30.0)))
    async with asyncio.timeout(15):
        with pytest.raises(UnavailableError):
            await one.length(CONTROL)
    one.close()


async def test_a_url_that_cannot_be_used_is_no_outage() -> None:
    one = Sender(Settings(broker=BrokerSettings(url=SecretBytes(b"redis://user@127.0.0.1:1/0"))))
    with pytest.raises(SettingsError, match="has a user but no password"):
        await one.send("rewrap.campaign.start", {}, CONTROL)
    one.close()
    assert one.is_available is None
