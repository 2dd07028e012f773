"""The errors of `config`: a file or a setting can't be used. They list every fault, and show no value of the file.

::

    ConfigError                   a file, and all of its faults
    ├── SourceError               it can't be read: missing, unsafe permissions, changed while it was read
    ├── DocumentError             its text is neither YAML nor JSON to kube-apiserver's decoders
    ├── EncryptionConfigError     kube-apiserver would refuse it as an EncryptionConfiguration
    ├── SettingsError             a setting, an environment variable or a flag can't be used
    ├── EditError                 (edit.py) an edit of the file was refused; nothing was changed
    └── ReplaceError              (archive.py) the file was not replaced

A fault has a path, a message and a remedy. All three are texts of this program: they quote nothing of the file, since
any text of the file may be a misplaced key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where it is, what is wrong, and what the operator does about it."""

    path: str
    """Field path such as `resources[0].providers[1].aescbc.keys[0].secret`; empty for the file as a whole."""
    message: str
    """What is wrong, as a phrase without a full stop and without any value of the file."""
    remedy: str
    """What the operator does about it, as a phrase in the imperative."""
    line: int | None = None
    """Line in the file, counted from 1. None where the format gives none (JSON)."""

    def __str__(self) -> str:
        """One line: path, line, message, remedy."""
        place = f"line {self.line}" if self.line is not None else ""
        where = f"{self.path} ({place})" if self.path and place else self.path or place
        return f"{where}: {self.message}; {self.remedy}" if where else f"{self.message}; {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """Return the JSON form, without the line."""
        return {"path": self.path, "message": self.message, "remedy": self.remedy}


class ConfigError(Exception):
    """Root of the errors for what an operator gave. `str()` is the file and each fault, one a line."""

    file: str
    """Name of the file, as the operator gave it."""
    faults: tuple[Fault, ...]
    """All faults of the file, in its order; at least one."""

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        # Exception keeps its arguments, and pickle (a task queue, a pool) rebuilds the error from them.
        super().__init__(self.file, self.faults)

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the message. A value that a line quotes may hold a line break of its own."""
        if len(self.faults) == 1:
            return (f"{self.file}: {self.faults[0]}",)
        return (f"{self.file}: {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults))

    def __str__(self) -> str:
        return "\n".join(self.lines)


class SourceError(ConfigError):
    """The file can't be read, or its permissions make it unsafe to read."""


class DocumentError(ConfigError):
    """The text is neither YAML nor JSON to kube-apiserver's decoders."""


class EncryptionConfigError(ConfigError):
    """The document can be read, but kube-apiserver would refuse it as an EncryptionConfiguration."""


class SettingsError(ConfigError):
    """A setting can't be used."""
