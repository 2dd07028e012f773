"""The keys of a backup that were seen: a hash table in one array, of 22 to 43 bytes a key, 64 while it grows.

A Python set of digests takes 80 to 130.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array

_SMALLEST = 1 << 10
_DIGEST = struct.Struct("<QQ")


class SeenKeys:
    """Digests of 127 bits, with linear probing. Two keys of one digest would be one key: 64 bits would be too few.

    The digests are keyed by random bytes, so that no file holds keys that are made to fall into one place.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=_DIGEST.size, key=os.urandom(16))
        self._count = 0
        self._allocate(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes) -> bool:
        """Add a key; return whether it was not there."""
        state = self._hash.copy()  # in less than half the time that a new one takes
        state.update(key)
        first, second = _DIGEST.unpack(state.digest())
        is_new = self._put(first | 1, second)
        if is_new:
            self._count += 1
            if self._count * 4 > len(self._firsts) * 3:
                self._grow()
        return is_new

    def _allocate(self, places: int) -> None:
        self._mask = places - 1
        self._firsts = array("Q", (0,)) * places
        self._seconds = array("Q", (0,)) * places

    def _put(self, first: int, second: int) -> bool:
        """Put a digest into the first free place from its own one on; `first` is not 0, which marks a free place."""
        firsts, place = self._firsts, first >> 1 & self._mask
        while found := firsts[place]:
            if found == first and self._seconds[place] == second:
                return False
            place = (place + 1) & self._mask
        firsts[place], self._seconds[place] = first, second
        return True

    def _grow(self) -> None:
        firsts, seconds = self._firsts, self._seconds
        self._allocate(2 * len(firsts))
        for first, second in zip(firsts, seconds, strict=True):
            if first:
                self._put(first, second)
