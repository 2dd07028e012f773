"""Key bytes that are not shown or copied by accident: not by repr, str, format, vars, pickle or copy.

Only `reveal()` returns the bytes; a reviewer can search for it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn, SupportsIndex, final

_DOMAIN = b"kube-rewrap/key-fingerprint/v1"
_MASK = "SecretBytes(<masked>)"


@final
class SecretBytes:
    """Bytes that are masked when printed; serialising or copying them raises TypeError.

    Comparison takes the same time wherever the bytes differ; the hash is that of a digest.
    """

    __slots__ = ("_value",)

    _value: bytes

    def __init__(self, value: bytes) -> None:
        object.__setattr__(self, "_value", bytes(value))

    def reveal(self) -> bytes:
        """Return the bytes themselves. They must not leave the process."""
        return self._value

    def fingerprint(self, provider: str) -> str:
        """Return 16 hex digits that name this key material under `provider` (`aescbc`, `aesgcm`, …).

        SHA-256 over length-prefixed parts, so that neither another use of the same digest nor another
        provider with the same bytes gives the same name. Truncated: it names a key, and does not prove two equal.
        """
        digest = hashlib.sha256()
        for part in (_DOMAIN, provider.encode(), self._value):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        # Not hash(bytes): with a fixed hash seed that is a 64-bit function of the key.
        return hash(self.fingerprint("hash"))

    def __repr__(self) -> str:
        return _MASK

    def __str__(self) -> str:
        return _MASK

    def __format__(self, format_spec: str) -> str:
        return _MASK

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise TypeError("SecretBytes can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise TypeError("SecretBytes can't be changed")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("SecretBytes can't be pickled or copied: key material stays in its process")

    def __reduce__(self) -> NoReturn:
        raise TypeError("SecretBytes can't be pickled or copied: key material stays in its process")

    def __getstate__(self) -> NoReturn:
        raise TypeError("SecretBytes can't be pickled or copied: key material stays in its process")
