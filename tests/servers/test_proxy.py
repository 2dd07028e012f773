"""The proxy loses what it is told to lose, and nothing else."""

import time
from collections.abc import Iterator

import grpc
import pytest

from tests.servers.etcd import EtcdCluster
from tests.servers.http2 import client_frames
from tests.servers.proxy import Proxy


@pytest.fixture
def proxy(etcd: EtcdCluster) -> Iterator[Proxy]:
    with Proxy(etcd.endpoints[0]) as running:
        yield running


@pytest.fixture
def channel(proxy: Proxy) -> Iterator[grpc.Channel]:
    quick = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]
    with grpc.insecure_channel(proxy.endpoint.removeprefix("http://"), quick) as opened:
        yield opened


def put(channel: grpc.Channel, key: bytes) -> None:
    """A PutRequest as it is on the wire: field 1 the key, field 2 the value."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/etcdserverpb.KV/Put")
    call(b"\x0a" + bytes([len(key)]) + key + b"\x12\x01v", timeout=10)


def put_in_the_end(channel: grpc.Channel, key: bytes) -> None:
    """After a cut the channel needs a moment, and a call may still fall onto the dead connection."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return put(channel, key)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_requests_and_replies_pass(etcd: EtcdCluster, channel: grpc.Channel) -> None:
    put(channel, b"/k")
    assert etcd.admin().get("/k") is not None


def test_a_swallowed_reply_leaves_the_write_in_place(etcd: EtcdCluster, proxy: Proxy, channel: grpc.Channel) -> None:
    put(channel, b"/first")
    proxy.swallow_replies()
    with pytest.raises(grpc.RpcError) as caught:
        put(channel, b"/second")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    proxy.wait_until_swallowed()
    found = etcd.admin().get("/second")
    assert found is not None
    assert found.version == 1
    put_in_the_end(channel, b"/third")


def test_only_the_reply_to_the_marked_request_is_swallowed(proxy: Proxy, channel: grpc.Channel) -> None:
    proxy.swallow_replies(to=b"/marked")
    put(channel, b"/first")
    with pytest.raises(grpc.RpcError):
        put(channel, b"/marked")
    proxy.wait_until_swallowed()
    put_in_the_end(channel, b"/marked")


def test_waiting_for_a_loss_that_never_comes_ends(proxy: Proxy) -> None:
    with pytest.raises(TimeoutError, match="no reply was swallowed"):
        proxy.wait_until_swallowed(0.01)


def test_a_refused_client_comes_through_when_all_passes_again(proxy: Proxy, channel: grpc.Channel) -> None:
    put(channel, b"/first")
    proxy.refuse()
    with pytest.raises(grpc.RpcError) as caught:
        put(channel, b"/second")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    proxy.pass_on()
    put_in_the_end(channel, b"/second")


def test_a_cut_client_connects_again(proxy: Proxy, channel: grpc.Channel) -> None:
    put(channel, b"/first")
    proxy.cut()
    put_in_the_end(channel, b"/second")


def test_a_delayed_reply_comes_late(proxy: Proxy, channel: grpc.Channel) -> None:
    put(channel, b"/first")
    proxy.delay_replies(0.2)
    started = time.monotonic()
    put(channel, b"/second")
    assert time.monotonic() - started >= 0.2


def test_frames_are_found_however_the_bytes_are_cut() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    stream = preface + b"\x00\x00\x03\x00\x01\x00\x00\x00\x05abc" + b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
    whole = client_frames().feed(stream)
    reader = client_frames()
    assert [frame for byte in stream for frame in reader.feed(bytes([byte]))] == whole
    assert [(frame.stream, frame.payload, frame.ends_stream) for frame in whole] == [(5, b"abc", True), (0, b"", False)]
