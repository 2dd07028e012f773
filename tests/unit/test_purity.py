"""The modules of the contract `pure` read no clock and draw no random bytes: times and nonces are arguments.

import-linter sees modules only; `datetime` and `os` are imported for other things, too.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_rewrap import config

ROOT = Path(config.__file__ or "").resolve().parents[1]
IMPURE = {
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "date.today",
    "os.getrandom",
    "os.urandom",
    "time.monotonic",
    "time.time",
}
IMPURE_MODULES = {"random", "secrets", "uuid"}
SEAL = "worker/providers/links.py"
"""Its `seal` draws the nonce for `seal_with`, which is pure."""


def calls_of_the_world(source: str) -> Iterator[str]:
    """Yield the calls in a source that read a clock or a random source, also those of imported functions."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if f"{owner}.{name}" in IMPURE:
                yield f"{owner}.{name}"
            case ast.Attribute(value=ast.Attribute(attr=owner), attr=name) if f"{owner}.{name}" in IMPURE:
                yield f"{owner}.{name}"
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name in IMPURE_MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{one.name}" for one in names if module in IMPURE_MODULES)
                yield from (f"{module}.{one.name}" for one in names if f"{module}.{one.name}" in IMPURE)


def pure_files() -> list[Path]:
    """Return the files of the modules and packages in the contract."""
    linter = configparser.ConfigParser()
    linter.read(ROOT / "importlinter.ini")
    names = linter["importlinter:contract:pure"]["source_modules"].split()
    paths = [ROOT / name.removeprefix("kube_rewrap.").replace(".", "/") for name in names]
    return [file for path in paths for file in ([path.with_suffix(".py")] if not path.is_dir() else path.rglob("*.py"))]


def test_no_module_of_the_contract_reads_a_clock_or_draws_random_bytes() -> None:
    files = pure_files()
    assert len(files) > 60
    found = {str(file.relative_to(ROOT)): set(calls_of_the_world(file.read_text())) for file in files}
    assert {name: calls for name, calls in found.items() if calls} == {SEAL: {"os.urandom"}}


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import UTC, datetime\nnow = datetime.now(UTC)",
        "import datetime\nnow = datetime.datetime.now()",
        "import os\nnonce = os.urandom(12)",
        "from os import urandom",
        "import secrets",
        "from secrets import token_bytes",
    ],
)
def test_each_way_to_read_a_clock_or_a_random_source_is_seen(source: str) -> None:
    assert list(calls_of_the_world(source))
