"""A forked worker's children without the start of an interpreter: forked from a copy of the worker as it began.

Celery spawns children: each is a new interpreter, which imports again what the worker has imported. Here a copy of the
worker, made before the worker did anything, forks them with the descriptors, arguments and environment of an executed
one. The worker stays their parent: it is a subreaper (prctl(2)), and the process that forked a child ends at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from billiard import popen_spawn_posix, semaphore_tracker

_PR_SET_CHILD_SUBREAPER = 36
_LONGEST = 1 << 20
_MOST_DESCRIPTORS = 32
_FREE = 200
"""No process of a test has so many descriptors open."""


def is_child() -> bool:
    """Splits the process: False in the worker; True in each child of it, which has run to its end by then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.fork():
        theirs.close()
        forks = _Forks(ours)
        popen_spawn_posix.spawnv_passfds = forks.spawn
        semaphore_tracker.spawnv_passfds = forks.spawn
        return False
    ours.close()
    request = _serve(theirs)
    os.environ.clear()
    os.environ.update(request["environment"])
    code = request["line"].index("-c") + 1
    sys.argv = ["-c", *request["line"][code + 1 :]]
    exec(request["line"][code], {"__name__": "__main__"})  # noqa: S102 - it is what billiard would have executed
    return True


class _Forks:
    """Stands for billiard's `spawnv_passfds` in a worker."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def spawn(self, _: object, line: Sequence[str], descriptors: Sequence[int]) -> int:
        numbers = sorted(set(descriptors))
        request = {"line": list(line), "numbers": numbers, "environment": dict(os.environ)}
        with self._lock:
            socket.send_fds(self._channel, [json.dumps(request).encode()], numbers)
            return int(self._channel.recv(16))


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Forks a process for each request, and returns the request there. Ends when the worker has ended."""
    with channel:
        while True:
            message, given, _, _ = socket.recv_fds(channel, _LONGEST, _MOST_DESCRIPTORS)
            if not message:
                _vanish()
            told, tells = os.pipe()
            between = os.fork()
            if between == 0:
                pid = os.fork()
                if pid == 0:
                    _close(told, tells)
                    request = dict(json.loads(message))
                    _number(given, request["numbers"])
                    return request
                os.write(tells, str(pid).encode())
                _vanish()
            os.waitpid(between, 0)  # from then on the worker is the parent
            channel.send(os.read(told, 16))
            _close(told, tells, *given)


def _vanish() -> None:
    """Ends this process without figures of coverage: it did nothing that is tested."""
    os.kill(os.getpid(), signal.SIGKILL)


def _number(given: Sequence[int], numbers: Sequence[int]) -> None:
    """Moves descriptors to the numbers that they have in the worker."""
    apart = [fcntl.fcntl(one, fcntl.F_DUPFD, _FREE) for one in given]
    _close(*given)
    for one, number in zip(apart, numbers, strict=True):
        os.dup2(one, number, inheritable=False)
    _close(*apart)


def _close(*descriptors: int) -> None:
    for one in descriptors:
        os.close(one)
