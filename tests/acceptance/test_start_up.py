"""`rewrap --help` answers at once: what takes long to import is imported by the command that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kube_rewrap.cli.parser import COMMANDS

HEAVY = ["grpc", "google.protobuf", "rich", "redis", "celery", "kombu", "cryptography", "nacl", "structlog", "uvloop"]
HEAVY += ["httpx", "prometheus_client", "yaml", "watchfiles"]
QUEUE = ["celery", "kombu", "billiard", "redis"]

MAIN = """
import sys
from kube_rewrap.cli.main import main
try:
    code = main(sys.argv[2:])
except SystemExit as end:
    code = end.code
"""
MODULES = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(f"kube_rewrap.cli.commands.{name}")
code = 0
"""
LOADED = """
sys.stderr.write(",".join(sorted(name for name in sys.argv[1].split(",") if name in sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["campaign", "start", "--help"], ["worker", "--help"]], ids=" ".join
)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    assert child(MAIN, ",".join(HEAVY), *words) == (0, "")


def test_only_the_daemons_import_what_the_queue_takes() -> None:
    names = [name.replace("-", "_") for name in COMMANDS if name not in {"scheduler", "worker"}]
    assert child(MODULES, ",".join(QUEUE), *names) == (0, "")


def child(program: str, *words: str) -> tuple[int, str]:
    """Returns the exit code of a Python process, and what it says on stderr: the modules that it has imported."""
    # -I and no coverage: what the tests' own tools import does not count.
    command = [sys.executable, "-I", "-c", f"{program}{LOADED}", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={}, timeout=60, check=False)
    return done.returncode, done.stderr
