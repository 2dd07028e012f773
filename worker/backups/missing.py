"""Which keys the unreadable values of a backup name, so that an operator knows which file to look for. Pure.

A value names its key by its prefix, and nothing authenticates it. Of a local key that is only its name; of a KMS v2
provider it is the KEK's key id, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.providers import envelope, kms_v2
from kube_rewrap.worker.providers.cipher import MalformedError
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason
from kube_rewrap.worker.wrapped import Plugin, SourceType, fingerprint_of_key_id

_MOST_KEYS = 200
"""Keys that are named one by one: a client that writes to etcd can invent any number."""
_EXAMPLES = 20
_OTHERS = KeyRef("", "others", "")


@dataclass(slots=True)
class MissingKey:
    """A key that no given configuration has, or that is another one there.

    `key`: its fingerprint is "" where it can't be known, as for a local key. `objects`: the objects that need it.
    `examples`: some of their etcd keys.
    """

    key: KeyRef
    objects: int = 0
    examples: list[bytes] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "provider": self.key.provider,
            "key": self.key.name,
            "fingerprint": self.key.fingerprint or None,
            "objects": self.objects,
            "examples": [key_text(one) for one in self.examples],
        }


class MissingKeys:
    """The missing keys of one backup."""

    def __init__(self) -> None:
        self._found: dict[KeyRef, MissingKey] = {}

    def add(self, etcd_key: bytes, stored: bytes, why: Quarantine) -> None:
        """Count an unreadable object by the key that it names; not at all if a missing key is not the reason."""
        key = _named_by(stored, why)
        if key is None:
            return
        if key not in self._found and len(self._found) >= _MOST_KEYS:
            key = _OTHERS
        missing = self._found.setdefault(key, MissingKey(key))
        missing.objects += 1
        if len(missing.examples) < _EXAMPLES:
            missing.examples.append(etcd_key)

    def all(self) -> tuple[MissingKey, ...]:
        """Return the missing keys, sorted.

        Nothing shows where the name of a local key ends, if the bytes behind it look like text. So a name that is
        another one and a colon and more is counted under that other one.
        """
        merged: dict[KeyRef, MissingKey] = {}
        for key, one in sorted(self._found.items()):
            shorter = next((other for other in merged if _is_longer(key, other)), key)
            total = merged.setdefault(shorter, MissingKey(shorter))
            total.objects += one.objects
            total.examples = [*total.examples, *one.examples][:_EXAMPLES]
        return tuple(merged.values())


def _is_longer(key: KeyRef, other: KeyRef) -> bool:
    return key.provider == other.provider and not key.fingerprint and key.name.startswith(f"{other.name}:")


def _named_by(stored: bytes, why: Quarantine) -> KeyRef | None:
    """Return the key that an unreadable value names; None if it names none, or a key did open it."""
    if why.reason in {Reason.IDENTITY_MISSING, Reason.LATE_PLAINTEXT}:
        return KeyRef(ProviderType.IDENTITY.value, "", "")
    if why.reason in {Reason.NOT_KUBERNETES, Reason.UNKNOWN_BYTES}:
        return None
    provider, version, name = _head(stored)
    if provider == ProviderType.KMS:
        return KeyRef(provider, name, _fingerprint(stored, name) if version == "v2" else version)
    claimed = next((key for key in why.claimed if key.provider == provider), None)
    return KeyRef(provider, claimed.name if claimed else name, "")


def _head(stored: bytes) -> tuple[str, str, str]:
    """Return provider, version and key name of a value's prefix."""
    words = envelope.readable_head(stored)[len(envelope.ENCRYPTED) :].removesuffix(":").split(":", 2)
    provider, version, name = [*words, "", "", ""][:3]
    # The name of a KMS provider has no colon; that of a local key may have.
    return provider, version, name.partition(":")[0] if provider == ProviderType.KMS else name


def _fingerprint(stored: bytes, name: str) -> str:
    """Return the fingerprint of the KEK that a KMS v2 value names, "" if the value is malformed."""
    body = stored[len(envelope.key_prefix(ProviderType.KMS, name, "v2")) :]
    try:
        wrapped, _ = kms_v2.split(body, Plugin(name, "v2", ""))
    except MalformedError:
        return ""
    return fingerprint_of_key_id(wrapped.key_id) + ("-type0" if wrapped.source_type is SourceType.AES_GCM_KEY else "")
