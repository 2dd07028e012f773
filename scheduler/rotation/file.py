"""The EncryptionConfiguration's file: reads it, checks that it can be replaced, replaces it, archives its content."""

from __future__ import annotations

import os
from dataclasses import dataclass

import structlog

from kube_rewrap.config.encryption.configuration import load_provider
from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.rotation.archive import replace_file
from kube_rewrap.scheduler.rotation.replaceable import faults_of

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """The EncryptionConfiguration's file, and the directory that archives its old contents."""

    path: str
    archive: str
    allow_readable: bool = False
    kms_file: str | None = None
    """Where the operator wrote the KMS provider that a rotation to KMS adds."""

    def stanza(self) -> tuple[KmsProvider, str]:
        """Return the KMS v2 provider in `kms_file`, and the hash of its text. Raises SettingsError, ConfigError."""
        if self.kms_file is None:
            raise _unusable("is missing: a rotation to KMS adds the provider that you write", "name a file that has it")
        raw = read(self.kms_file, allow_readable=True)  # it holds no secret
        provider = load_provider(raw, self.kms_file)
        if not isinstance(provider, KmsProvider) or provider.api_version != "v2":
            raise _unusable("has no KMS v2 provider", "write `kms:` with apiVersion: v2, name and endpoint")
        return provider, content_hash(raw)

    def read(self) -> bytes:
        """Return the file's bytes. Raises SourceError."""
        return read(self.path, allow_readable=self.allow_readable)

    def faults(self) -> tuple[str, ...]:
        """Return why the file can't be replaced. Writes nothing."""
        return faults_of(self.path, self.archive)

    def replace(self, before: bytes, after: bytes, stamp: str) -> None:
        """Replace the content `before` by `after`, and archive `before`. Raises ReplaceError."""
        kept = replace_file(self.path, before, after, self.archive, stamp)
        _log.info("rotation.archived", file=self.path, archived=str(kept), because="keys are kept, never destroyed")


def _unusable(message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault("--kms-file", message, remedy),))


def archive_of(path: str) -> str:
    """Return the default archive of a file: a directory beside it."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), "kube-rewrap-archive")  # noqa: PTH100, PTH118, PTH120
