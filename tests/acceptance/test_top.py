"""`rewrap top` on a terminal of its own, against real runs: what it shows, how it ends, and what it leaves behind."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.command import REWRAP, ROOT, Command, command_for
from tests.integration.apiserver import Key, configure, secrets, store, write_private
from tests.servers.etcd import EtcdCluster

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
OBJECTS = 600
SETTINGS = "[page]\nobjects = 20\n[budget]\nblock = 20\n"
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PLACED = re.compile(r"\x1b\[(\d+);\d+H")


class Screen:
    """`rewrap top` with a pseudo-terminal as its controlling terminal."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._master, self.slave = os.openpty()
        self._set_size(80, 24)
        self.before = termios.tcgetattr(self.slave)
        self.written = ""
        slave = self.slave
        self.process = subprocess.Popen(
            [*REWRAP, "top", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "33", **environment},  # the terminal knows better
            preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509 - one call to the kernel
        )

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        """As a terminal emulator does it: the kernel sends SIGWINCH."""
        self.written = ""
        self._set_size(width, height)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read(self) -> None:
        """Take what it wrote within a moment."""
        while select.select([self._master], [], [], 0.02)[0]:
            self.written += os.read(self._master, 65_536).decode(errors="replace")

    def wait(self, is_so: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process.poll() is None, self.written
            assert time.monotonic() < deadline, self.text
            self.read()

    def wait_for(self, words: str, seconds: float = 60.0) -> None:
        self.wait(lambda: words in self.text, seconds)

    @property
    def lines(self) -> list[str]:
        """The screen as a terminal shows it: each line as it was written last."""
        _, *parts = _PLACED.split(self.written)
        shown = {int(row): _CONTROL.sub("", text) for row, text in zip(parts[::2], parts[1::2], strict=True)}
        return [shown[number].rstrip("\r\n") for number in sorted(shown)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def end(self) -> int:
        """Wait for its end; returns its exit code."""
        deadline = time.monotonic() + 30
        while (code := self.process.poll()) is None:
            self.read()
            assert time.monotonic() < deadline, self.text
        self.read()
        return code

    def require_restored(self) -> None:
        """The main screen, a cursor, and the terminal's mode as before."""
        assert self.written.count(ENTER) <= self.written.count(LEAVE)
        assert self.written.rfind(SHOW) >= self.written.rfind(HIDE)
        assert termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        os.close(self._master)
        os.close(self.slave)


@contextmanager
def top(*words: str, **environment: str) -> Iterator[Screen]:
    screen = Screen(words, environment)
    try:
        yield screen
    finally:
        screen.close()


@pytest.fixture
def rewrap(etcd: EtcdCluster, tmp_path: Path) -> Command:
    half = secrets(OBJECTS // 2)
    store(etcd.admin(), half | {name.replace("/secrets/", "/configmaps/"): one for name, one in half.items()}, OLD)
    file = configure(tmp_path, NEW, OLD, resources=["secrets", "configmaps"])
    settings = write_private(tmp_path / "settings.toml", SETTINGS)
    return command_for(tmp_path, etcd, file).with_flags("--settings", str(settings))


def test_it_shows_a_run_of_two_processes_follows_the_size_of_the_terminal_and_quits_on_q(
    etcd: EtcdCluster, rewrap: Command
) -> None:
    with rewrap.start("run", "-o", "json", "--processes", "2", "--rate", "60") as running:
        running.wait_for_event("batch.page", times=2)
        with top(*etcd.client_flags()) as screen:
            screen.wait_for(" left")
            assert re.search(
                r"^\d{8}-\d{6}-\S+ running +[━╌]+ +\d+ % +\d+/600  \d+/s, \d+ s left", screen.text, re.MULTILINE
            ), screen.text
            at_work = {line.split()[0] for line in screen.lines if re.match(r"\S+:\d+  batch", line)}
            assert len(at_work) == 2, screen.text
            assert re.search(r"^  aesgcm new +[━╌]+ ", screen.text, re.MULTILINE), screen.text
            assert "campaign.planned" in screen.text
            assert (len(screen.lines), {len(line) for line in screen.lines}) == (24, {80})
            for width, height in ((60, 20), (120, 40), (30, 8)):
                screen.resize(width, height)
                screen.wait(lambda size=(width, height): fits(screen, *size))  # type: ignore[misc]
            screen.press(b"xyz q")
            assert screen.end() == 0
            screen.require_restored()
        assert running.end().document["rewritten"] == OBJECTS  # it changed nothing


def fits(screen: Screen, width: int, height: int) -> bool:
    lines = screen.lines
    return len(lines) == height and {len(line) for line in lines} == {width} and lines[0].startswith("rewrap top")


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x03"], ids=["q", "Q", "ctrl-c"])
def test_keys_that_end_it_restore_the_terminal(etcd: EtcdCluster, key: bytes) -> None:
    with top(*etcd.client_flags()) as screen:
        screen.wait_for("none on record")
        assert termios.tcgetattr(screen.slave) != screen.before
        screen.press(key)
        assert screen.end() == 0
        screen.require_restored()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
def test_signals_that_end_it_restore_the_terminal(etcd: EtcdCluster, number: signal.Signals) -> None:
    with top(*etcd.client_flags()) as screen:
        screen.wait_for("none on record")
        screen.process.send_signal(number)
        assert screen.end() == 0
        screen.require_restored()


def test_an_error_restores_the_terminal_and_is_reported_on_it(etcd: EtcdCluster) -> None:
    """A login, where etcd has no users: etcd refuses it after the screen was taken."""
    with top(*etcd.client_flags(), "--user", "x:y") as screen:
        assert screen.end() == 2
        screen.require_restored()
        taken, _, after = screen.written.rpartition(LEAVE)
        assert ENTER in taken
        assert "rewrap: etcd has authentication turned off; leave --user out" in after


def test_it_shows_that_etcd_is_away_and_goes_on_when_it_is_back(etcd: EtcdCluster) -> None:
    [flag, url] = etcd.client_flags()[:2]
    with top(flag, url) as screen:
        screen.wait_for("none on record")
        member = etcd.leader()
        member.stop()
        try:
            screen.wait_for("etcd does not answer; what follows is as of")
            assert "none on record" in screen.text
        finally:
            member.start()
        screen.wait(lambda: "does not answer" not in screen.text)
        screen.press(b"q")
        assert screen.end() == 0
        screen.require_restored()


def test_it_quits_while_etcd_hangs(etcd: EtcdCluster) -> None:
    with top(*etcd.client_flags()) as screen:
        screen.wait_for("none on record")
        member = etcd.leader()
        member.freeze()
        try:
            screen.wait_for("etcd does not answer; what follows is as of")
            screen.press(b"q")
            assert screen.end() == 0
            screen.require_restored()
        finally:
            member.thaw()


def test_a_terminal_that_can_t_move_its_cursor_is_refused(etcd: EtcdCluster) -> None:
    with top(*etcd.client_flags(), TERM="dumb") as screen:
        assert screen.end() == 2
        assert "needs a terminal that can move its cursor (TERM); use --once for one screen" in screen.written
        assert ENTER not in screen.written


def test_it_starts_before_etcd_does(etcd: EtcdCluster) -> None:
    member = etcd.leader()
    member.stop()
    try:
        with top(*etcd.client_flags()) as screen:
            screen.wait_for("etcd does not answer")
            member.start()
            screen.wait_for("none on record")
            screen.press(b"q")
            assert screen.end() == 0
    finally:
        if not member.running:
            member.start()


def test_it_can_be_suspended_and_resumed(etcd: EtcdCluster) -> None:
    with top(*etcd.client_flags()) as screen:
        screen.wait_for("none on record")
        screen.press(b"\x1a")
        stat = Path(f"/proc/{screen.process.pid}/stat")
        screen.wait(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        screen.read()
        screen.require_restored()
        screen.written = ""
        screen.process.send_signal(signal.SIGCONT)
        screen.wait_for("none on record")
        screen.press(b"q")
        assert screen.end() == 0
        screen.require_restored()


def test_without_a_terminal_it_refuses_and_prints_one_screen_or_one_document(
    etcd: EtcdCluster, rewrap: Command, tmp_path: Path
) -> None:
    alone = Command(tmp_path, tuple(etcd.client_flags()))
    refused = alone.run("top")
    assert (refused.code, refused.stdout) == (2, "")
    assert "top: needs a terminal on stdin and stdout; use --once for one screen, or -o json" in refused.stderr
    assert rewrap.run("run").code == 0
    once = alone.with_environment(COLUMNS="80", LINES="24", PYTHONIOENCODING="utf-8").run("top", "--once")
    assert once.code == 0
    assert "\x1b" not in once.stdout
    assert " complete " in once.stdout
    document = alone.json("top")
    assert [one["state"] for one in document["campaigns"]] == ["complete"]
    known = rewrap.json("keys", "--no-scan")["keys"]
    assert {one["fingerprint"]: one["used"] for one in document["keys"]} == {
        one["fingerprint"]: one["used"] for one in known
    }
    assert document["gaps"] == []


def test_hostile_records_neither_control_the_terminal_nor_end_the_screen(etcd: EtcdCluster) -> None:
    gateway = etcd.admin()
    for kind in ("campaigns/\x1b[2J[red]", "ledger/\x1b]0;x\x07", "owner", "leader", "rotations/x", "generation"):
        gateway.put(f"/kube-rewrap/v1/{kind}", b'{"id": "\x1b[2J[bold]"}')
    with top(*etcd.client_flags()) as screen:
        screen.wait_for("not read: ")
        screen.press(b"q")
        assert screen.end() == 0
        assert "\x1b[2J" not in screen.written
        assert "\x1b]0;" not in screen.written
        screen.require_restored()
