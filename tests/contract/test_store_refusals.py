"""`commit` is for our own records: whatever touches the registry through it is a bug of the caller, and raises."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Delete, Put
from tests.contract.conftest import Place

pytestmark = pytest.mark.timeout(30)

OURS = b"/kube-rewrap/v1/one"
SECRET = b"/registry/secrets/default/a"
FOREIGN = [
    pytest.param(Put(SECRET, b"x"), id="a put of a registry key"),
    pytest.param(Put(b"/kube-rewrap", b"x"), id="a put of the prefix without its slash"),
    pytest.param(Put(b"/kube-rewrapper/x", b"x"), id="a put beside the prefix"),
    pytest.param(Delete.of_key(SECRET), id="a deletion of a registry key"),
    pytest.param(Delete(KeyRange.of_prefix(b"/registry/")), id="a deletion of the registry"),
    pytest.param(
        Delete(KeyRange(b"/kube-rewrap/", b"/registry/z")), id="a deletion that begins in ours and ends in it"
    ),
    pytest.param(Delete(KeyRange(b"/kube-rewrap/", b"\0")), id="a deletion from ours to the end of the keyspace"),
    pytest.param(Delete(KeyRange(b"\0", b"\0")), id="a deletion of everything"),
]


@pytest.mark.parametrize("change", FOREIGN)
async def test_a_commit_outside_the_state_prefix_raises_and_changes_nothing(place: Place, change: Put | Delete) -> None:
    place.put(SECRET, b"theirs")
    before = await place.store.revision()
    with pytest.raises(ValueError, match="only records under the state prefix may be changed by commit"):
        await place.store.commit([], [Put(OURS, b"1"), change])
    assert await place.store.revision() == before
