"""Rotations on record: each step is there before and after it is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.errors import RecordChangedError, TemporaryError
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, require_place
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.rotation import Rotation

KEPT = 20
"""Rotations whose records are kept."""

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class StoredRotation:
    """A rotation as read, with the mod_revision that the next write must find."""

    rotation: Rotation
    revision: int


class Rotations:
    """The rotations of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    async def all(self) -> list[StoredRotation]:
        """Return all rotations that can be read, the oldest first."""
        return [stored async for stored in record.read_each(self._store, self._keyspace.rotations, self._stored)]

    def _stored(self, item: Item, fields: dict[str, object]) -> StoredRotation:
        try:
            rotation = Rotation.from_json(fields)
        except ValueError as error:
            raise damaged(item.key, error) from None
        require_place(item.key, self._keyspace.rotation(rotation.id))
        return StoredRotation(rotation, item.mod_revision)

    async def unfinished(self) -> StoredRotation | None:
        """Return the rotation that has not ended, if there is one."""
        return next((stored for stored in await self.all() if not stored.rotation.step.is_end), None)

    async def save(self, stored: StoredRotation) -> StoredRotation:
        """Write a rotation over the version that was read (revision 0 = new). Raises FencedError."""
        key = self._keyspace.rotation(stored.rotation.id)
        fields = stored.rotation.to_json()
        return replace(
            stored, revision=await record.write(self._store, key, fields, stored.revision, guards=self._guards)
        )

    async def change(self, change: Callable[[Rotation], Rotation]) -> Rotation | None:
        """Apply a pure change to the unfinished rotation, again when somebody else was faster; None without one."""
        for _ in range(_ATTEMPTS):
            stored = await self.unfinished()
            if stored is None:
                return None
            try:
                return (await self.save(replace(stored, rotation=change(stored.rotation)))).rotation
            except RecordChangedError:
                continue
        raise TemporaryError("the rotation is changed too often by others", delay=1.0)

    async def forget_old(self) -> None:
        """Delete the rotations that ended, but the newest `KEPT`."""
        ended = [stored for stored in await self.all() if stored.rotation.step.is_end]
        for stored in ended[:-KEPT]:
            await self._store.commit(self._guards, [Delete.of_key(self._keyspace.rotation(stored.rotation.id))])
