"""What the operator gave can't be used; every fault is listed, none of them shows a value of the file.

::

    ConfigError                   a file, and everything that is wrong with it
    ├── SourceError               it can't be read: missing, unsafe permissions, changing while read
    ├── DocumentError             it is neither YAML nor JSON that kube-apiserver's decoders read
    ├── EncryptionConfigError     it was decoded, and kube-apiserver would refuse it
    ├── SettingsError             a setting, its environment variable or its flag
    ├── EditError                 (edit.py) an edit of the file was refused; nothing was changed
    └── ReplaceError              (archive.py) the file was not replaced

A fault carries a path, a message and a remedy, all three written by us: text of the file never gets
into them, because a misplaced key is text of the file too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what, and how to mend it."""

    path: str
    """Field path such as `resources[0].providers[1].aescbc.keys[0].secret`; empty for the file as a whole."""
    message: str
    """What is wrong, without a full stop and without any value of the file."""
    remedy: str
    """What the operator does about it."""
    line: int | None = None
    """Line in the file, counted from 1. None where the format gives none (JSON)."""

    def __str__(self) -> str:
        """One line: path, line, message, remedy."""
        place = f"line {self.line}" if self.line is not None else ""
        where = f"{self.path} ({place})" if self.path and place else self.path or place
        return f"{where}: {self.message}; {self.remedy}" if where else f"{self.message}; {self.remedy}"


class ConfigError(Exception):
    """Root of everything that `config` raises on purpose. `str()` lists the file and each fault, one a line."""

    file: str
    """Name of the file, as the operator gave it."""
    faults: tuple[Fault, ...]
    """All faults of the file, in its order; at least one."""

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        # The arguments again, so that pickle (a task queue, a pool) can rebuild the error.
        super().__init__(self.file, self.faults)

    @property
    def lines(self) -> tuple[str, ...]:
        """The message in lines; what is quoted in one may hold a line break of its own."""
        if len(self.faults) == 1:
            return (f"{self.file}: {self.faults[0]}",)
        return (f"{self.file}: {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults))

    def __str__(self) -> str:
        return "\n".join(self.lines)


class SourceError(ConfigError):
    """The file can't be read, or reading it would not be safe."""


class DocumentError(ConfigError):
    """The text is neither YAML nor JSON that can be read."""


class EncryptionConfigError(ConfigError):
    """The document was read, and kube-apiserver would refuse it as an EncryptionConfiguration."""


class SettingsError(ConfigError):
    """A setting can't be used."""
