"""`rewrap` without the start of an interpreter: forked from a process that imports everything once for all tests.

A forked command is a process of its own, with the environment, descriptors, signals and exit code of an executed
one. It runs `main` as the console script does. What happens before `main` is left out: tests of the start, and of what
libraries print while they are imported, execute the program. So is the destruction of all modules at the end, which
would copy the memory that the processes share.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from coverage import Coverage

from kube_rewrap import cli, config, scheduler, worker
from kube_rewrap.cli.main import main
from tests.acceptance.forked_children import is_child
from tests.measured import COVERED, stop_measuring

_ROOT = Path(__file__).parents[2]
_LONGEST = 1 << 20


class ForkedProcess:
    """One process. It offers what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, end: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = end

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], seconds)[0]:
            self.returncode = int(os.read(self._end, 16))
            os.close(self._end)
        return self.returncode


def fork(
    line: Sequence[str],
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
    *,
    new_session: bool = False,
) -> ForkedProcess:
    """Begins `rewrap`, or `python -m` and a module, in the root of the project, with nothing on stdin."""
    request = json.dumps({"line": line, "environment": dict(environment), "new_session": new_session}).encode()
    end, reports = os.pipe()
    _process, channel = _server()
    socket.send_fds(channel, [request], [reports, stdout.fileno(), stderr.fileno()])
    os.close(reports)
    return ForkedProcess(int(channel.recv(16)), end)


def stop_server() -> None:
    """Ends the process that all others are forked from, if there is one."""
    if _server.cache_info().currsize:
        process, channel = _server()
        channel.close()
        process.wait(30)
        _server.cache_clear()


@cache
def _server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        line = [sys.executable, "-m", "tests.acceptance.forked", str(number)]
        nothing = subprocess.DEVNULL
        environment = {**os.environ, **COVERED}  # the first test that forks may be one that is not measured
        started = subprocess.Popen(line, stdin=nothing, stdout=nothing, cwd=_ROOT, env=environment, pass_fds=[number])
        return started, ours


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request. Returns the request in each of these, and nothing when no more will come."""
    running: dict[int, tuple[int, int]] = {}  # by a descriptor that tells the process's end: its id, where to report
    with channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for ready in [key.fd for key, _ in selector.select()]:
                if ready in running:
                    selector.unregister(ready)
                    pid, report = running.pop(ready)
                    os.write(report, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                    _close(ready, report)
                    continue
                message, given, _, _ = socket.recv_fds(channel, _LONGEST, 3)
                if not message:
                    return None
                report, stdout, stderr = given
                pid = os.fork()
                if pid == 0:
                    os.dup2(stdout, 1)
                    os.dup2(stderr, 2)
                    _close(*given, *running, *(other for _, other in running.values()))
                    return dict(json.loads(message))
                channel.send(str(pid).encode())
                _close(stdout, stderr)
                ended = os.pidfd_open(pid)
                running[ended] = (pid, report)
                selector.register(ended, selectors.EVENT_READ)


def _close(*descriptors: int) -> None:
    for one in descriptors:
        os.close(one)


def _import_all() -> None:
    for package in (cli, config, scheduler, worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    if (figures := Coverage.current()) is not None:
        figures.save()  # else each process would write all that the imports covered, once more
    gc.freeze()  # what is there now is no process's garbage


def _main() -> None:
    _import_all()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    if request["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    if not COVERED.keys() <= os.environ.keys():
        stop_measuring()
    match request["line"]:
        case [sys.executable, "-m", module, *words]:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [path, *words]:
            sys.argv = [path, *words]
            # What processes that this one spawns import first.
            program = sys.modules["__main__"]
            program.__spec__, program.__file__ = None, path
            if words[:1] == ["worker"] and is_child():
                return
            sys.exit(main(words))


def _end(code: int) -> None:
    """Ends the process as an interpreter does, up to the destruction of modules: so do children of multiprocessing.

    It returns when what was printed can't be written, for the interpreter to say so.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what destructors say belongs to a command's output
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    try:
        _main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _end(ended.code)
        raise
