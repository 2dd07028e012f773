"""The terminal of `rewrap top`: alternate screen, no cursor, keys one by one; as it was before at the end.

Ctrl-C and Ctrl-Z arrive as keys, so that no signal interrupts the restoration.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.text import Text

from kube_rewrap.cli.top.screen import Form
from kube_rewrap.config.errors import Fault, SettingsError

_QUIT = b"qQ\x03"
_SUSPEND = b"\x1a"
_FALLBACK = (80, 24)
_LFLAGS = 3


def require_terminal() -> None:
    """Raise SettingsError where no screen can be shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fault = Fault("top", "needs a terminal on stdin and stdout", "use --once for one screen, or -o json")
    elif os.environ.get("TERM", "dumb").lower() in {"dumb", "unknown"}:
        fault = Fault("top", "needs a terminal that can move its cursor (TERM)", "use --once for one screen")
    else:
        return
    raise SettingsError("command line", (fault,))


class Terminal:
    """Draws lines on the whole screen, while `taken`."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._stdin, self._stdout = sys.stdin.fileno(), sys.stdout.fileno()
        self._before = termios.tcgetattr(self._stdin)

    @property
    def form(self) -> Form:
        """The size of the terminal now, whatever COLUMNS and LINES say."""
        width, height = os.get_terminal_size(self._stdout)
        width, height = (width, height) if width and height else _FALLBACK
        return Form(width, height, ascii_only=self._console.options.ascii_only, is_live=True)

    def draw(self, lines: Sequence[Text], form: Form) -> None:
        """Replace the whole screen."""
        self._console.size = (form.width, form.height)
        self._console.update_screen(Group(*lines))
        self._console.file.flush()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the terminal while the block runs; gives it back whatever ends the block.

        Call `follow_keys` before: a signal that nothing handles would end the process with the terminal taken.
        """
        try:
            self._enter()
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        tty.setcbreak(self._stdin)
        mode = termios.tcgetattr(self._stdin)
        mode[_LFLAGS] &= ~termios.ISIG
        termios.tcsetattr(self._stdin, termios.TCSANOW, mode)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _leave(self) -> None:
        """Give the terminal back as it was; a terminal that is gone is no error."""
        with suppress(OSError):
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
            self._console.file.flush()
        with suppress(OSError, termios.error):
            termios.tcsetattr(self._stdin, termios.TCSAFLUSH, self._before)

    def follow_keys(self, redraw: Callable[[], None], end: Callable[[], None]) -> None:
        """Call `redraw` when the size changes, `end` for q, Ctrl-C, SIGINT, SIGTERM, SIGHUP and a closed terminal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGWINCH, redraw)
        loop.add_reader(self._stdin, self._read, redraw, end)

    def _read(self, redraw: Callable[[], None], end: Callable[[], None]) -> None:
        try:
            keys = os.read(self._stdin, 64)
        except OSError:
            keys = b""
        if not keys or any(key in _QUIT for key in keys):
            asyncio.get_running_loop().remove_reader(self._stdin)
            end()
        elif _SUSPEND in keys:
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()
            redraw()
