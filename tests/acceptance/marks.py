"""Marked keys, plaintext and password, and the search for them in whatever a process lets out."""

from __future__ import annotations

import base64

from tests.integration.apiserver import Key

CBC = Key("aescbc", "cbc", b"CanaryKey-CBC-0123456789-abcdef!")
GCM = Key("aesgcm", "gcm", b"CanaryKey-GCM-0123456789-abcdef!")
BOX = Key("secretbox", "box", b"CanaryKey-BOX-0123456789-abcdef!")
LOST = Key("aesgcm", "lost", b"CanaryKey-LST-0123456789-abcdef!")
KEYS = (CBC, GCM, BOX, LOST)
PAYLOAD = "CanaryPlaintext~0123456789~pa55"
PASSWORD = "CanaryPassword~0123456789"


def encodings(mark: bytes) -> set[bytes]:
    """How a mark could look outside. Base64 of its middle, too, for where it stands inside something longer."""
    middles = {base64.b64encode(mark[start:])[4:-4] for start in range(3)}
    escaped = {
        mark.hex().encode(),
        mark.hex().upper().encode(),
        mark[:8].hex(" ").encode(),
        repr(list(mark))[1:-1].encode(),
    }
    return {mark, mark[:12], base64.b64encode(mark), base64.urlsafe_b64encode(mark), *middles, *escaped}


MARKS = {
    shape
    for mark in (*(key.material for key in KEYS), PAYLOAD.encode(), PASSWORD.encode())
    for shape in encodings(mark)
}


def marks_in(data: bytes | str) -> list[bytes]:
    data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    return sorted(mark for mark in MARKS if mark in data)
