"""Which revisions of a gap the observer counts as writes under a key."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
)
from tests.unit.scheduler.keys.scene import (
    FP_NEW,
    FP_OLD,
    NEW,
    OLD,
    Scene,
    ref,
    scene,
    until,
)

pytestmark = pytest.mark.timeout(20)


async def recorded_until(there: Scene) -> int:
    """An observer came and went."""
    async with there.observed():
        pass
    return (await there.recorded()).until


async def test_a_gap_counts_what_may_have_been_written_for_each_key_that_wears_out() -> None:
    there = await scene()
    began = await recorded_until(there)
    for number in range(9):
        there.write(f"/registry/secrets/default/s{number % 3}", NEW)
    there.store.compact()
    compacted = await there.store.revision()
    with capture_logs() as logs:
        async with there.observed() as second:
            await until(lambda: there.gaps == 2)
            # The one at the compaction itself can still be read, and is counted by itself.
            await until(lambda: second.counts.get(FP_NEW, 0) == compacted - began + 1 - 1)
    # Our own record is at one of these revisions. Two more were the last writes of objects that are there.
    assert dict((await there.recorded()).counts) == {FP_NEW: 9, FP_OLD: 9 - 1 - 2}
    told = [log for log in logs if log["event"] == "observer.gap"]
    assert [(log["revisions"], log["counted"]) for log in told] == [(compacted - began, 8), (compacted - began, 0)]


async def test_a_range_that_is_quiet_while_others_are_not_has_no_gap() -> None:
    there = await scene()
    for _ in range(5):
        async with there.observed() as observer:
            for _ in range(20):
                noise = there.store.put(b"/registry/leases/default/x", b"noise").mod_revision
            await until(lambda: min(observer.places) > noise)  # noqa: B023 - it waits here
        there.store.compact()
    there.write("/registry/secrets/default/a", NEW)
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 1})
    assert there.gaps == 0


async def test_a_gap_from_before_a_key_was_there_is_none_of_its_use() -> None:
    there = await scene(OLD, IdentityProvider())
    async with there.observed():
        pass
    for _ in range(250):
        there.write("/registry/secrets/default/brief", OLD)
        there.store.delete(b"/registry/secrets/default/brief")
    await there.engine.ledger.begin_new(ref(NEW))
    there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.compact()
    there = await scene(NEW, OLD, IdentityProvider(), store=there.store)
    async with there.observed() as observer:
        await until(lambda: observer.lag == 0)
        assert 250 <= observer.counts[FP_OLD] <= 503
    assert there.gaps == 1
    assert (await there.engine.ledger.all())[FP_NEW].used == 0


async def test_what_objects_of_other_resources_and_our_own_records_tell_is_no_gap() -> None:
    there = await scene(NEW, IdentityProvider())
    there.write("/registry/secrets/default/old", NEW)
    async with there.observed():
        pass
    for number in range(400):
        there.store.put(f"/registry/pods/default/p{number % 50}".encode(), b"noise")
    await there.engine.ledger.begin_new(ref(OLD))
    there.store.compact()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/new", NEW)
            await until(lambda: observer.counts == {FP_NEW: 1})
    assert there.gaps == 0
    assert not [log for log in logs if log["event"] == "observer.gap"]


async def test_of_older_objects_of_other_resources_only_the_last_write_is_sure_to_lie_in_a_gap() -> None:
    there = await scene(NEW, IdentityProvider())
    for name in (b"/registry/leases/default/x", b"/registry/leases/default/y"):
        there.store.put(name, b"noise")
    await recorded_until(there)
    for _ in range(10):
        there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.put(b"/registry/secrets/default/a", b"plaintext")
    there.write("/registry/secrets/default/brief", NEW)
    there.store.delete(b"/registry/secrets/default/brief")
    there.store.compact()
    async with there.observed() as observer:
        await until(lambda: there.gaps == 2)
        await until(lambda: observer.lag == 0)
    # Nine writes of the older object, and one of what came and went: nothing else tells whose they were.
    assert observer.counts[FP_NEW] == 9 + 1
