"""Reads the configurations that may open a backup: the present one, and the files of other days."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import Fault, SourceError

_MOST_FILES = 1_000


def read_generations(paths: Iterable[str], *, allow_readable: bool) -> tuple[Generation, ...]:
    """Return the configurations of files and of the files in directories, each content once.

    The files of a directory are taken in the order of their names, the last one first: an archive of rotations has a
    time in its names. Subdirectories and hidden files are left out. Raises ConfigError for a file that can't be used.
    """
    found: dict[str, Generation] = {}
    for generation in read_copies(paths, allow_readable=allow_readable):
        found.setdefault(generation.file_hash, generation)
    return tuple(found.values())


def read_copies(paths: Iterable[str], *, allow_readable: bool) -> tuple[Generation, ...]:
    """Return the configurations as `read_generations` does, one for each file that has the content."""
    files = [file for path in paths for file in _files(path)]
    return tuple(load_generation(read(file, allow_readable=allow_readable), file) for file in files)


def _files(path: str) -> list[str]:
    directory = Path(path)
    if not directory.is_dir():
        return [path]
    try:
        files = [str(one) for one in directory.iterdir() if one.is_file() and not one.name.startswith(".")]
    except OSError as error:
        fault = Fault("", f"the directory can't be read: {error.strerror}", "check its permissions")
        raise SourceError(path, (fault,)) from None
    if not files or len(files) > _MOST_FILES:
        message = f"the directory holds {len(files) or 'no'} files"
        raise SourceError(path, (Fault("", message, "name the archive of the EncryptionConfiguration"),))
    return sorted(files, reverse=True)
