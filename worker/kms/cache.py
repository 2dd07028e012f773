"""The unwrapped keys that a process remembers: least recently used ones leave, by number and by bytes. Pure.

Nothing here is ever read from or written to anything outside the process. Times are arguments, in seconds by one clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

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
    outcome: SecretBytes | RefusedKey
    size: int
    until: float
    """When a refusal ends; for a key, from when on it may be doubted."""
    is_doubted: bool = False
    """It opened a value wrongly, and is to be asked for once more."""
    is_proven: bool = False
    """It opened a value; a value that it does not open is to blame."""


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
        if entry is None or entry.is_doubted or (isinstance(entry.outcome, RefusedKey) and now >= entry.until):
            return None
        self._entries.move_to_end(wrapped)
        return entry.outcome

    def put(self, wrapped: WrappedKey, outcome: SecretBytes | RefusedKey, now: float) -> SecretBytes | RefusedKey:
        """Remember what the plugin said, and return what is known now. A key that was doubted stays for a while.

        A doubted key that the plugin does not unwrap any more stays as it was: the first answer may have been right.
        """
        before = self._entries.get(wrapped)
        was_doubted = before is not None and before.is_doubted
        if before is not None and was_doubted and isinstance(outcome, RefusedKey):
            outcome = before.outcome
        stays = isinstance(outcome, RefusedKey) or was_doubted
        self._set(wrapped, outcome, now + REFUSED_SECONDS if stays else now)
        return outcome

    def prove(self, wrapped: WrappedKey) -> None:
        """Note that a key opened a value, so that no value that it does not open casts doubt on it."""
        entry = self._entries.get(wrapped)
        if entry is not None and not entry.is_proven and isinstance(entry.outcome, SecretBytes):
            self._entries[wrapped] = replace(entry, is_doubted=False, is_proven=True)

    def forget(self, wrapped: WrappedKey, now: float) -> None:
        """Have a key asked for once more; not one that is proven, or was doubted in the last `REFUSED_SECONDS`."""
        entry = self._entries.get(wrapped)
        is_key = entry is not None and isinstance(entry.outcome, SecretBytes)
        if entry is not None and is_key and not entry.is_proven and now >= entry.until:
            self._entries[wrapped] = replace(entry, is_doubted=True)

    def restore(self, wrapped: WrappedKey) -> None:
        """Take a doubted key as it was, after the plugin could not be asked for it; it may be doubted again."""
        entry = self._entries.get(wrapped)
        if entry is not None and entry.is_doubted:
            self._entries[wrapped] = replace(entry, is_doubted=False)

    def witness(self, plugin: Plugin, key_id: str | None, now: float) -> DataKey | None:
        """Return the newest key that this plugin unwrapped under this key id, and that is not doubted.

        None stands for any key id.
        """
        for wrapped, entry in reversed(self._entries.items()):
            is_like = wrapped.plugin == plugin and key_id in {None, wrapped.key_id}
            is_sound = not entry.is_doubted and now >= entry.until
            if is_like and is_sound and isinstance(entry.outcome, SecretBytes):
                return DataKey(wrapped, entry.outcome)
        return None

    def _set(self, wrapped: WrappedKey, outcome: SecretBytes | RefusedKey, until: float) -> None:
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
    annotations = sum([_ANNOTATION_BYTES + len(name) + len(value) for name, value in wrapped.annotations])
    return _ENTRY_BYTES + len(wrapped.wrapped) + len(wrapped.key_id.encode()) + annotations
