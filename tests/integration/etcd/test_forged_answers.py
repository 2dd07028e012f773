"""Answers to a swap that no etcd gives: nothing is concluded from them, and nothing breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.channel import open_endpoint
from kube_rewrap.worker.etcd.client import EtcdStore
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, SwapResult

_rpc: Any = compat.load()[0]

ITEM = Item(b"/registry/secrets/a/b", b"before", 7, 1, 0)
GUARD = Expect(b"/kube-rewrap/v1/claims/c/0", 5, created=True)
READ = _rpc.ResponseOp(response_range=_rpc.RangeResponse())


async def swap(answer: bytes, directory: Path, guard: Expect | None) -> object:
    """Swap one item at a server that answers each transaction with these bytes."""

    async def respond(_request: bytes, _context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(respond)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("etcdserverpb.KV", {"Txn": handler}),))
    url = f"unix://{directory}/etcd.sock"
    server.add_insecure_port(url.replace("unix://", "unix:"))
    await server.start()
    settings = EtcdSettings(endpoints=(url,))
    endpoint = open_endpoint(url, settings, 2**20)
    try:
        (end,) = await EtcdStore(settings, "/kube-rewrap", [endpoint], 1.0).swap_all([(ITEM, b"after")], guard)
    finally:
        await endpoint.channel.close()
        await server.stop(None)
    return end


@pytest.mark.parametrize("guard", [None, GUARD], ids=["without a guard", "with a guard"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\xff\xff\xff", id="not a message"),
        pytest.param(b"", id="a lost comparison, and nothing read"),
        pytest.param(_rpc.TxnResponse(responses=[READ] * 3).SerializeToString(), id="more reads than the swap has"),
    ],
)
async def test_an_answer_that_is_none_leaves_the_outcome_unknown(
    answer: bytes, guard: Expect | None, tmp_path: Path
) -> None:
    assert await swap(answer, tmp_path, guard) == SwapResult(Outcome.UNKNOWN)
