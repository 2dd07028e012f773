"""The unwrapped keys that a process remembers: least recently used ones leave, by number and by bytes. Pure.

Nothing here is ever read from or written to anything outside the process. Times are arguments, in seconds by one clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.wrapped import DataKey, Plugin, RefusedKey, WrappedKey

REFUSED_SECONDS = 600.0
"""How long a refused source is not asked for again: longer than it takes to find that out for a page of them."""

_ENTRY_BYTES = 1024
"""What the objects of an entry take besides their bytes, roughly."""
_ANNOTATION_BYTES = 200
"""The same for each annotation: in 32 KiB, an attacker who writes to etcd has room for more than 6,000 of them."""


@dataclass(frozen=True, slots=True)
class _Entry:
    outcome: SecretBytes | RefusedKey | None
    """None: forgotten, and to be asked for once more."""
    size: int
    until: float
    """When a refusal ends; for a key, from when on it may be forgotten."""


class KeyCache:
    """At most `entries` of together at most `size` bytes, wrapped keys included."""

    def __init__(self, entries: int, size: int) -> None:
        self._most = entries
        self._most_bytes = size
        self._entries: OrderedDict[WrappedKey, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """The bytes of all entries."""
        return self._bytes

    def get(self, wrapped: WrappedKey, now: float) -> SecretBytes | RefusedKey | None:
        """Return what is known of a wrapped key; None if it is to be asked for."""
        entry = self._entries.get(wrapped)
        if entry is None or (isinstance(entry.outcome, RefusedKey) and now >= entry.until):
            return None
        self._entries.move_to_end(wrapped)
        return entry.outcome

    def put(self, wrapped: WrappedKey, outcome: SecretBytes | RefusedKey, now: float) -> None:
        """Remember what the plugin said. A key that was forgotten before stays for `REFUSED_SECONDS`."""
        before = self._entries.get(wrapped)
        was_forgotten = before is not None and before.outcome is None
        stays = isinstance(outcome, RefusedKey) or was_forgotten
        self._set(wrapped, outcome, now + REFUSED_SECONDS if stays else now)

    def forget(self, wrapped: WrappedKey, now: float) -> None:
        """Drop a key, so that it is asked for once more; not if that was done in the last `REFUSED_SECONDS`."""
        entry = self._entries.get(wrapped)
        if entry is not None and isinstance(entry.outcome, SecretBytes) and now >= entry.until:
            self._set(wrapped, None, now)

    def witness(self, plugin: Plugin, key_id: str | None, now: float) -> DataKey | None:
        """Return the newest key that this plugin unwrapped under this key id, and that was never forgotten.

        None stands for any key id.
        """
        for wrapped, entry in reversed(self._entries.items()):
            is_like = wrapped.plugin == plugin and key_id in {None, wrapped.key_id}
            if is_like and isinstance(entry.outcome, SecretBytes) and now >= entry.until:
                return DataKey(wrapped, entry.outcome)
        return None

    def _set(self, wrapped: WrappedKey, outcome: SecretBytes | RefusedKey | None, until: float) -> None:
        self._drop(wrapped)
        size = _size_of(wrapped) + (len(outcome) if isinstance(outcome, SecretBytes) else 0)
        if size > self._most_bytes:
            return
        self._entries[wrapped] = _Entry(outcome, size, until)
        self._bytes += size
        while len(self._entries) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, wrapped: WrappedKey) -> None:
        entry = self._entries.pop(wrapped, None)
        if entry is not None:
            self._bytes -= entry.size


def _size_of(wrapped: WrappedKey) -> int:
    annotations = sum(_ANNOTATION_BYTES + len(name) + len(value) for name, value in wrapped.annotations)
    return _ENTRY_BYTES + len(wrapped.wrapped) + len(wrapped.key_id.encode()) + annotations
