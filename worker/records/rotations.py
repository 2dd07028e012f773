"""The records of rotations. A rotation is recorded at a step before the step begins, and again after it."""

from __future__ import annotations

from collections.abc import Callable

from kube_rewrap.worker.etcd.store import Delete
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.table import Stored, Table

KEPT = 20
"""Ended rotations that `forget_old` keeps."""


class Rotations(Table[Rotation]):
    """All rotations; at most one has not ended."""

    _kind = Rotation

    def _key(self, value: Rotation) -> bytes:
        return self._keyspace.rotation(value.id)

    async def all(self) -> list[Stored[Rotation]]:
        """Return all readable rotations, the oldest first."""
        return [stored async for stored in self._within(self._keyspace.rotations)]

    async def unfinished(self) -> Stored[Rotation] | None:
        """Return the rotation that has not ended, None if there is none."""
        return next((stored for stored in await self.all() if not stored.value.step.is_end), None)

    async def change(self, change: Callable[[Rotation], Rotation]) -> Rotation | None:
        """Apply a pure change to the unfinished rotation by compare-and-swap; None if there is none.

        `change` may be called more than once, and may raise to refuse.
        """
        before = await self.unfinished()
        changed = await self._update(self._key(before.value), change, may_write_twice=True) if before else None
        return changed.value if changed else None

    async def forget_old(self) -> None:
        """Delete all ended rotations but the newest `KEPT`."""
        ended = [stored.value for stored in await self.all() if stored.value.step.is_end]
        for rotation in ended[:-KEPT]:
            await self._commit(Delete.of_key(self._key(rotation)))
