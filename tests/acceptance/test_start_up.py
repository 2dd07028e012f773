"""`rewrap --help` answers at once: what takes long to import is imported by the command that needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.command import ROOT

HEAVY = ["grpc", "google.protobuf", "rich", "redis", "celery", "kombu", "cryptography", "nacl", "structlog", "uvloop"]

CHILD = """
import os, sys
from cli.main import main
try:
    code = main(sys.argv[2:])
except SystemExit as end:
    code = end.code
loaded = sorted(name for name in sys.argv[1].split(",") if name in sys.modules)
sys.stderr.write(",".join(loaded))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["status", "--help"], ["check", "--help"], ["keygen"]], ids=" ".join
)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    # -I and no coverage: what the tests' own tools import does not count.
    child = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CHILD}"]
    done = subprocess.run(
        [*child, ",".join(HEAVY), *words], capture_output=True, text=True, env={}, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
