"""A generation: an EncryptionConfiguration and the hash of its bytes, by which kube-apiserver reports what it runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kube_rewrap.config.encryption import configuration as encryption

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.configuration import EncryptionConfiguration


@dataclass(frozen=True, slots=True)
class Generation:
    """One EncryptionConfiguration, identified by its bytes rather than by its meaning.

    Two files that mean the same but differ in a comment are two generations, as they are to kube-apiserver.
    """

    hash: str
    """`sha256:` and 64 hex digits."""
    configuration: EncryptionConfiguration
    file: str
    """Name of the file, for messages."""


def content_hash(raw: bytes) -> str:
    """Return the hash that kube-apiserver v1.34 and later reports for a file with these bytes.

    It is the label `hash` of `apiserver_encryption_config_controller_last_config_info`.
    """
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def load_generation(raw: bytes, file: str) -> Generation:
    """Decode and check `raw`. Raises DocumentError or EncryptionConfigError, as `encryption.load` does."""
    return Generation(hash=content_hash(raw), configuration=encryption.load(raw, file), file=file)
