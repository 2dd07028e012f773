"""The Redis that other tests stand on does what its name says."""

import os
import socket
import ssl
from collections.abc import Callable

import pytest
import redis as client

from tests.servers.redis import MASTER, RedisError, RedisOptions, RedisServer

NewRedis = Callable[[RedisOptions], RedisServer]


@pytest.mark.parametrize("_", ["once", "again"])
def test_a_shared_one_is_empty_for_each_test(redis: RedisServer, _: str) -> None:
    assert redis.run("KEYS", "*") == []
    redis.run("SET", "left", "behind")
    assert redis.url == f"redis://127.0.0.1:{redis.port}/0"
    assert redis.client_flags() == ["--broker", redis.url]


def test_a_shared_one_that_a_test_stopped_or_froze_runs_again(redis: RedisServer) -> None:
    redis.stop()
    redis.reset()
    redis.freeze()
    redis.reset()
    assert redis.run("PING") == "PONG"


def test_it_keeps_nothing_and_evicts_nothing(redis: RedisServer) -> None:
    assert redis.run("CONFIG", "GET", "maxmemory-policy") == ["maxmemory-policy", "noeviction"]
    redis.run("SET", "key", "value")
    before = redis.pid
    redis.kill()
    assert not redis.running
    redis.start()
    assert redis.pid != before
    assert redis.run("GET", "key") is None


def test_a_frozen_one_answers_nothing_until_it_thaws(redis: RedisServer) -> None:
    redis.freeze()
    try:
        with closing_client(redis, socket_timeout=0.2) as frozen, pytest.raises(client.TimeoutError):
            frozen.ping()
    finally:
        redis.thaw()
    assert redis.run("PING") == "PONG"


def closing_client(redis: RedisServer, **options: float | str) -> client.Redis:
    return client.Redis(port=redis.port, retry=None, protocol=2, **options)  # type: ignore[arg-type]


def test_a_password_is_asked_for(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(password=True))
    with closing_client(server) as stranger, pytest.raises(client.AuthenticationError):
        stranger.ping()
    with client.Redis.from_url(server.url) as friend:
        assert friend.ping() is True
    assert server.run("ACL", "WHOAMI") == "default"


def test_a_user_may_do_what_its_rules_say_and_nothing_else(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(acl="~mine:* +get"))
    with client.Redis.from_url(server.url) as user:
        assert user.get("mine:key") is None
        with pytest.raises(client.ResponseError, match=r"no permissions|can't access|NOPERM"):
            user.get("yours:key")
        with pytest.raises(client.ResponseError, match=r"no permissions|NOPERM"):
            user.set("mine:key", "value")


def test_tls_asks_for_a_client_certificate(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(tls=True))
    files = server.certificates
    assert files is not None
    with client.Redis.from_url(
        server.url, ssl_ca_certs=str(files.cacert), ssl_certfile=str(files.cert), ssl_keyfile=str(files.key)
    ) as friend:
        # Larger than a TLS record, in both directions.
        friend.set("key", "v" * 100_000)
        assert friend.get("key") == b"v" * 100_000
    stranger = ssl.create_default_context(cafile=files.cacert)
    with raw_connection(server) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        ping(stranger.wrap_socket(plain, server_hostname="127.0.0.1"))


def test_clear_text_does_not_pass_the_proxy(new_redis: NewRedis) -> None:
    with raw_connection(new_redis(RedisOptions(tls=True))) as plain, pytest.raises(ConnectionError):
        ping(plain)


def raw_connection(server: RedisServer) -> socket.socket:
    port = int(server.url.rpartition(":")[2].removesuffix("/0"))
    return socket.create_connection(("127.0.0.1", port), 5)


def ping(connection: socket.socket) -> None:
    """Raises where the other side hangs up, in TLS 1.3 after the client's part of the handshake is done."""
    with connection:
        connection.sendall(b"PING\r\n")
        if not connection.recv(1):
            raise ConnectionError("closed")


def test_a_sentinel_knows_its_master(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(sentinel=True, password=True))
    assert server.sentinel is not None
    assert server.sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER) == ["127.0.0.1", str(server.port)]
    assert server.url == f"sentinel://:default-password@127.0.0.1:{server.sentinel.port}/0"


def test_a_replica_follows(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(replica=True, password=True))
    replica = server.replica
    assert replica is not None
    server.run("SET", "key", "value")
    replica.wait_until(lambda: replica.run("GET", "key") == "value", "follow")


def test_one_that_cannot_start_shows_its_log(new_redis: NewRedis) -> None:
    with pytest.raises(RedisError, match="no-such-rule"):
        new_redis(RedisOptions(acl="no-such-rule"))


def test_a_closed_one_leaves_no_process(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(sentinel=True, replica=True))
    assert server.sentinel is not None
    assert server.replica is not None
    pids = [server.pid, server.sentinel.pid, server.replica.pid]
    server.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
