"""A generation: an EncryptionConfiguration, the hash of its bytes, and the keys that its KMS plugins write with.

kube-apiserver reports the file that it runs by the hash of the file's bytes. A key-encryption key (KEK) that is rotated
in the KMS changes no byte of the file, and yet all that is under the former one becomes stale: so the key ids of the
KEKs are a part of the generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from kube_rewrap.config.encryption import configuration as encryption
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.errors import ConfigError, Fault

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.configuration import EncryptionConfiguration


NO_TARGETS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Generation:
    """One EncryptionConfiguration, identified by its bytes rather than by its meaning, and by its KEKs.

    Two files that mean the same but differ in a comment are two generations, as they are to kube-apiserver.
    """

    file_hash: str
    """`sha256:` and 64 hex digits: what kube-apiserver reports of this file."""
    configuration: EncryptionConfiguration
    file: str
    """Name of the file, for messages."""
    targets: Mapping[str, str] = field(default_factory=lambda: NO_TARGETS, repr=False)
    """The KEK under which each KMS v2 provider that writes is to write, by the provider's name: `sha256:` and the hex
    digest of the plugin's key id, as in kube-apiserver's metrics."""

    @property
    def hash(self) -> str:
        """The generation's identity, `sha256:` and 64 hex digits; equal to `file_hash` while there are no targets."""
        return identity(self.file_hash, self.targets)

    @property
    def kms_providers(self) -> tuple[KmsProvider, ...]:
        """All KMS providers, each once, in the file's order."""
        providers = (one for entry in self.configuration.entries for one in entry.providers)
        return tuple(dict.fromkeys(one for one in providers if isinstance(one, KmsProvider)))

    @property
    def kms_writers(self) -> tuple[KmsProvider, ...]:
        """The KMS v2 providers that write some resource, each once, in the file's order: those that need a target."""
        names = map(GroupResource.parse, self.configuration.resource_names())
        first = (providers[0] for name in names if (providers := self.configuration.providers_for(name)))
        return tuple(dict.fromkeys(one for one in first if isinstance(one, KmsProvider) and one.api_version == "v2"))

    def aimed(self, targets: Mapping[str, str]) -> Generation:
        """Return this generation with a KEK for each of `kms_writers`; see `targets`."""
        return replace(self, targets=dict(targets))


def identity(file_hash: str, targets: Mapping[str, str]) -> str:
    """Return the hash of a generation of this file with these targets; see `Generation`."""
    if not targets:
        return file_hash
    digest = hashlib.sha256()
    for part in (file_hash, *(text for pair in sorted(targets.items()) for text in pair)):
        digest.update(len(part.encode()).to_bytes(4, "big"))
        digest.update(part.encode())
    return f"sha256:{digest.hexdigest()}"


def content_hash(raw: bytes) -> str:
    """Return the hash that kube-apiserver v1.34 and later reports for a file with these bytes.

    It is the label `hash` of `apiserver_encryption_config_controller_last_config_info`.
    """
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def load_generation(raw: bytes, file: str) -> Generation:
    """Decode and check `raw`. Raises DocumentError or EncryptionConfigError, as `encryption.load` does."""
    return Generation(file_hash=content_hash(raw), configuration=encryption.load(raw, file), file=file)


def judge_file(raw: bytes, file: str, layout: Layout) -> Generation | tuple[Fault, ...]:
    """Return the generation in a file's bytes if the service can work under it, else every fault.

    Beyond what kube-apiserver refuses, a file is at fault in which no name governs anything: a leader that follows it
    could only fail, and a worker has nothing to rewrite.
    """
    try:
        generation = load_generation(raw, file)
    except ConfigError as error:
        return error.faults
    idle = layout.why_all_idle(map(GroupResource.parse, generation.configuration.resource_names()))
    return (Fault("", idle, "correct the names; `rewrap check` shows each"),) if idle else generation
