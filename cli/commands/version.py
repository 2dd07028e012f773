"""`rewrap version`: what runs here, for a bug report: version, commit, Python, libraries."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import distribution, version
from importlib.resources import files

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.output import print_json, say

_LIBRARIES = ("aioetcd3", "celery", "cryptography", "grpcio", "protobuf", "PyNaCl", "PyYAML", "redis", "structlog")


def run(args: argparse.Namespace) -> int:
    """Print the versions. The commit is unknown where the package is installed from a checkout for editing."""
    commit = files("kube_rewrap").joinpath("COMMIT")
    found = {
        "version": distribution("kube-rewrap").version,
        "commit": commit.read_text(encoding="ascii").strip() if commit.is_file() else None,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    if args.output == "json":
        print_json(found)
    else:
        say(f"rewrap {found['version']} (commit {found['commit'] or 'unknown'}), Python {found['python']}")
        for name in _LIBRARIES:
            say(f"  {name} {version(name)}")
    return Exit.DONE
