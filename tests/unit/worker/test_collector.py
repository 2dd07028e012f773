"""How often Python's garbage collector runs in a process that works on objects; in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

_RUN = """
import gc, json
from kube_rewrap.cli.running import run_async

async def look():
    return gc.get_freeze_count(), gc.get_threshold()[0]

first = run_async(look)
more = [[] for _ in range(3 * first[1])]
print(json.dumps([first, run_async(look)]))
"""


def test_a_command_exempts_its_imports_from_collection_once() -> None:
    done = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, check=True)
    (frozen, young), (frozen_again, young_again) = json.loads(done.stdout)
    assert frozen > 1_000
    assert frozen_again <= frozen, "the objects made since the first command are collected as ever"
    assert young == young_again == 5_000
