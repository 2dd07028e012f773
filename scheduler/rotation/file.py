"""The EncryptionConfiguration's file: reads it, checks that it can be replaced, replaces it, archives its content."""

from __future__ import annotations

import os
from dataclasses import dataclass

import structlog

from kube_rewrap.config.encryption.source import read
from kube_rewrap.scheduler.rotation.archive import replace_file
from kube_rewrap.scheduler.rotation.replaceable import faults_of

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """The EncryptionConfiguration's file, and the directory that archives its old contents."""

    path: str
    archive: str
    allow_readable: bool = False

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


def archive_of(path: str) -> str:
    """Return the default archive of a file: a directory beside it."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), "kube-rewrap-archive")  # noqa: PTH100, PTH118, PTH120
