"""A run on a terminal: the bar moves within seconds at a low rate, keeps its count, and Ctrl-C prints one message."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import Key, configure, secrets, store
from tests.servers.etcd import EtcdCluster

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
OBJECTS = 300
SECONDS = 60.0


class Terminal:
    """A command on a terminal of this width."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self._raw = b""

    @property
    def text(self) -> str:
        """All that was printed so far, without the terminal's commands; a line that is drawn anew is a line more."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw.decode(errors="replace")).replace("\r", "\n")

    def wait(self, holds: Callable[[], object]) -> None:
        until = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < until, self.text
            self._read()

    def _read(self) -> None:
        if select.select([self._screen], [], [], 0.1)[0]:
            try:
                self._raw += os.read(self._screen, 65_536)
            except OSError:  # the other end is closed: the command ended
                time.sleep(0.01)

    def end(self) -> int:
        self.wait(lambda: self.process.poll() is not None)
        self._read()
        return self.process.wait()


@contextmanager
def on_terminal(command: Command, columns: int, *words: str) -> Iterator[Terminal]:
    screen, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: text for name, text in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    environment |= {"TERM": "xterm", **(command.environment or {})}
    process = subprocess.Popen(command.line(*words), stdin=inner, stdout=inner, stderr=inner, env=environment)
    os.close(inner)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait()
        os.close(screen)


@pytest.fixture
def rewrap(etcd: EtcdCluster, tmp_path: Path) -> Command:
    store(etcd.admin(), secrets(OBJECTS), OLD)
    return command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD))


@pytest.mark.parametrize("columns", [60, 80])
def test_the_bar_moves_at_a_low_rate_and_a_stop_says_once_what_is_done(rewrap: Command, columns: int) -> None:
    # All objects are on one page, whose end would come after six seconds.
    with on_terminal(rewrap, columns, "run", "--rate", "50") as terminal:
        terminal.wait(lambda: re.search(r"rewrapping .*[1-9]\d*/300", terminal.text))
        assert int(re.findall(r"rewrapping .*?(\d+)/300", terminal.text)[-1]) < 150
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 3
    [stopped] = re.findall(r"^rewrap: (.+)$", terminal.text, re.MULTILINE)
    found = re.fullmatch(
        r"stopped by SIGINT: this run rewrote (\d+) objects; about (\d+) are not looked at yet\. "
        r"The campaign is (\S+): run again to resume it",
        "".join(terminal.text[terminal.text.index("rewrap: ") + 8 :].split("\n")),
    )
    assert found, terminal.text
    first, left, campaign = int(found[1]), int(found[2]), found[3]
    assert first > 0
    assert first + left == OBJECTS
    assert stopped.startswith("stopped by SIGINT")
    assert "campaign.interrupted" not in terminal.text
    bars = [line for line in terminal.text.split("\n") if "━" in line]
    assert max(map(len, bars)) <= columns
    assert all(re.search(r"\d+/300\b", line) for line in bars)

    with on_terminal(rewrap, columns, "run", "--rate", "0") as terminal:
        assert terminal.end() == 0
    assert f"This run resumed the campaign: {left} rewritten; " in terminal.text
    assert f"Campaign {campaign}: {OBJECTS} rewritten, " in terminal.text
    assert "with the runs before, in 0:00:" in terminal.text
