"""What `rewrap run --processes N` makes of a child process that does not behave."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kube_rewrap.cli.commands.run import _children
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.dispatch import processes
from kube_rewrap.scheduler.dispatch.limits import Limits
from kube_rewrap.scheduler.dispatch.processes import ChildCommand, ChildWorker
from kube_rewrap.worker.claimed import Job
from kube_rewrap.worker.errors import BudgetExhaustedError, UnavailableError, WorkerError

pytestmark = pytest.mark.timeout(60)

HEAD = (
    "import json, os, sys, time\n"
    "def say(x): print(x, flush=True)\n"
    "def job(): return next(line for line in sys.stdin if 'job' in line)\n"
)
ANSWERS = "for line in sys.stdin: say(line.strip())\n"


def worker(tmp_path: Path, *lives: str) -> ChildWorker:
    """A worker whose child runs these programs, one after the other, the last one from then on."""
    for number, life in enumerate(lives):
        (tmp_path / f"{number}.py").write_text(HEAD + life)
    (tmp_path / "count").write_text("0")
    start = (
        "import pathlib, sys\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "n = int((here / 'count').read_text()); (here / 'count').write_text(str(n + 1))\n"
        f"exec((here / f'{{min(n, {len(lives) - 1})}}.py').read_text())\n"
    )
    return ChildWorker(ChildCommand((sys.executable, "-c", start), dict(os.environ)), "campaign", Limits(Settings()))


def lives(tmp_path: Path) -> int:
    return int((tmp_path / "count").read_text())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param("say('a library says hello')", id="text"),
        pytest.param("say('[]')", id="no object"),
        pytest.param('say(\'{"job": "rewrap"}\')', id="no number"),
        pytest.param("say(json.dumps({'job': 'rewrap', 'number': 0, 'error': 'x' * 100_000}))", id="too long"),
        pytest.param("say(json.dumps({'take': 0, 'of': 'objects', 'objects': 0}))", id="nothing asked for"),
        pytest.param("say(json.dumps({'take': 0, 'of': 'objects'}))", id="no number asked for"),
        pytest.param("say(json.dumps({'take': 0, 'of': 'objects', 'objects': 10**400}))", id="too much asked for"),
        pytest.param(
            "[say(json.dumps({'take': n, 'of': f'kms{n}', 'objects': 1})) for n in range(300)]", id="too many ceilings"
        ),
        pytest.param(
            "ask = {'of': 'objects', 'objects': 500}",
            "[say(json.dumps({'take': n, **ask})) for n in range(1200)]",
            id="too many requests",
        ),
        pytest.param("say(json.dumps({'window': 'wide'}))", id="no window"),
        pytest.param("os.write(1, b'\\xff\\n')", id="no UTF-8"),
        pytest.param("os.write(1, b'[' * 60_000 + b'\\n')", id="too deep"),
    ],
)
async def test_a_child_that_answers_what_can_not_be_read_is_replaced(tmp_path: Path, answer: str) -> None:
    one = worker(tmp_path, f"say('{{}}'); job(); {answer}; time.sleep(60)", f"say('{{}}')\n{ANSWERS}")
    async with asyncio.timeout(50):
        await one.do(Job.REWRAP, 0)
        await one.do(Job.REWRAP, 0)
        await one.stop()
    assert lives(tmp_path) == 2


async def test_a_child_that_stands_still_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SILENT_SECONDS", 2.0)
    one = worker(tmp_path, "say('{}'); time.sleep(60)", f"say('{{}}')\n{ANSWERS}")
    async with asyncio.timeout(50):
        await one.do(Job.REWRAP, 0)
        await one.do(Job.REWRAP, 0)
        await one.stop()
    assert lives(tmp_path) == 2


async def test_a_child_that_can_not_answer_any_more_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_SECONDS", 2.0)
    one = worker(tmp_path, "say('{}'); job(); os.close(1); time.sleep(60)", f"say('{{}}')\n{ANSWERS}")
    async with asyncio.timeout(25):
        await one.do(Job.REWRAP, 0)
        await one.do(Job.REWRAP, 0)
        await one.stop()
    assert lives(tmp_path) == 2


SLOW_TO_SHRINK = """
windows = []
for line in sys.stdin:
    order = json.loads(line)
    if 'job' in order: say(line.strip())
    if 'window' in order: windows.append(order['window'])
    if windows[1:] == [3, 5, 3]:
        say(json.dumps({'window': 3}))
        say(json.dumps({'window': 5}))
        time.sleep(1)
        (here / 'shrunk').write_text('')
        say(json.dumps({'window': 3}))
"""


async def test_an_answer_to_an_earlier_window_is_not_taken_for_one_to_an_equal_later_one(tmp_path: Path) -> None:
    one = worker(tmp_path, f"say('{{}}')\n{SLOW_TO_SHRINK}")
    async with asyncio.timeout(50):
        await one.do(Job.REWRAP, 0)
        one.window = 0
        await one.resize(3, 2)
        await one.resize(5, 1)
        await one.resize(3, 2)
        assert (tmp_path / "shrunk").exists()
        await one.stop()


async def test_a_child_that_is_killed_while_it_starts_is_replaced(tmp_path: Path) -> None:
    one = worker(tmp_path, "os.kill(os.getpid(), 9)", f"say('{{}}')\n{ANSWERS}")
    async with asyncio.timeout(50):
        await one.do(Job.REWRAP, 0)
        await one.stop()
    assert lives(tmp_path) == 2


async def test_children_that_are_killed_again_and_again_end_the_run(tmp_path: Path) -> None:
    one = worker(tmp_path, "os.kill(os.getpid(), 9)")
    async with asyncio.timeout(50):
        with pytest.raises(WorkerError, match="again and again, the last one with exit code -9"):
            await one.do(Job.REWRAP, 0)
    assert lives(tmp_path) == 6


async def test_a_child_that_ends_while_it_starts_ends_the_run(tmp_path: Path) -> None:
    one = worker(tmp_path, "sys.exit(7)")
    with pytest.raises(WorkerError, match="did not start: it ended with exit code 7"):
        await one.do(Job.REWRAP, 0)
    assert lives(tmp_path) == 1


async def test_a_child_that_can_not_start_says_why(tmp_path: Path) -> None:
    one = worker(tmp_path, "say(json.dumps({'error': 'UnavailableError', 'because': 'no etcd'}))")
    with pytest.raises(UnavailableError, match="no etcd"):
        await one.do(Job.REWRAP, 0)
    await one.stop()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("BudgetExhaustedError", BudgetExhaustedError), ("Mapping", WorkerError), ("annotations", WorkerError)],
)
async def test_an_error_keeps_its_class(tmp_path: Path, name: str, kind: type[WorkerError]) -> None:
    life = f"say('{{}}'); a = json.loads(job()); say(json.dumps(a | {{'error': '{name}', 'because': 'b'}}))"
    one = worker(tmp_path, f"{life}\n{ANSWERS}")
    with pytest.raises(WorkerError, match="b") as raised:
        await one.do(Job.REWRAP, 0)
    assert type(raised.value) is kind
    await one.stop()


def test_a_child_imports_nothing_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be /tmp, where anyone may put a module; the child holds all keys."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "structlog.py").write_text("print('HIJACKED', flush=True)")
    args = argparse.Namespace(
        processes=2, encryption_config="missing", allow_readable_config=False, settings=None, flags=()
    )
    [command, _] = _children(args, cast("Any", SimpleNamespace(found=SimpleNamespace(stale=1))))
    ended = subprocess.run(
        [*command.command, "2", "campaign"],
        cwd=tmp_path,
        env=command.environment,
        input=b"",
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert b"HIJACKED" not in ended.stdout + ended.stderr
    assert ended.returncode == 2
