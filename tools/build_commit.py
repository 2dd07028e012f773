"""A hook of the build: puts the commit into the wheel and the source distribution, for `rewrap version`.

The commit is that of the checkout, or of the source distribution that is built from, or what the environment variable
KUBE_REWRAP_COMMIT says, for a build without the repository, such as that of an image. Without any: no file.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_COMMIT = re.compile(r"[0-9a-f]{7,64}(-modified)?")


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    """See hatchling: `initialize` is called before a target is built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add `COMMIT`, a line of ASCII, to what is built; not to an editable install, whose commit changes."""
        if version == "editable":
            return
        root = Path(self.root)
        commit = os.environ.get("KUBE_REWRAP_COMMIT") or _told(root / "COMMIT") or _checked_out(root)
        if commit is None:
            return
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"KUBE_REWRAP_COMMIT or COMMIT must be a commit's hexadecimal id, not {commit!r}")
        made = Path(self.directory) / "COMMIT"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(f"{commit}\n", encoding="ascii")
        build_data["force_include"][str(made)] = "kube_rewrap/COMMIT" if self.target_name == "wheel" else "COMMIT"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the file from beside what was built."""
        (Path(self.directory) / "COMMIT").unlink(missing_ok=True)


def _told(path: Path) -> str | None:
    return path.read_text(encoding="ascii").strip() if path.is_file() else None


def _checked_out(root: Path) -> str | None:
    """Return the commit of the repository whose top is `root`; None outside one, or without git."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-modified" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()  # noqa: S603
