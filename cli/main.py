"""`rewrap`: parses the command line, runs the command, and turns its result into an exit code and one message.

It imports only the module of the chosen command, so that `--help` answers within 0.1 s.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from kube_rewrap.cli.arguments import UsageError
from kube_rewrap.cli.exit_codes import Exit, exit_of
from kube_rewrap.cli.output import print_json, print_to_stderr
from kube_rewrap.cli.parser import parse, unknown_variables
from kube_rewrap.config.errors import ConfigError
from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.errors import KmsUnavailableError, WorkerError

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Command(Protocol):
    """The interface of a command's module."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command; returns the exit code."""


def run() -> None:
    """Console script: never returns."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code. Prints an error as one message; with a traceback on request."""
    as_json = _wants_json(argv)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's C core writes lines of its own between ours
    try:
        args = parse(argv)
        print_to_stderr(*(f"rewrap: {warning}" for warning in unknown_variables(os.environ)))
        forbid_core_dumps()
        return _module(args.command).run(args)
    except UsageError as error:
        return _fail(Exit.USAGE, error, as_json=as_json)
    except KeyboardInterrupt as error:
        return _fail(_INTERRUPTED, error, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.UNEXPECTED
    except Exception as error:  # noqa: BLE001 - the top of the program: the one place that reports errors
        if os.environ.get("REWRAP_TRACEBACK"):
            print_to_stderr(*_traceback(error))
        return _fail(exit_of(error), error, as_json=as_json)


def _module(command: str) -> Command:
    """Import the module of a command, and only that."""
    return cast("Command", importlib.import_module(f"kube_rewrap.cli.commands.{command.replace('-', '_')}"))


def _wants_json(argv: Sequence[str]) -> bool:
    """Return whether the output is JSON, even when the arguments can't be parsed."""
    pairs = itertools.pairwise([*argv, ""])
    flag = any(
        (name in {"-o", "--output"} and value == "json") or name in {"-ojson", "-o=json", "--output=json"}
        for name, value in pairs
    )
    return flag or os.environ.get("REWRAP_OUTPUT") == "json"


def _fail(code: int, error: BaseException, *, as_json: bool) -> int:
    """Report an error: on stdout as the one JSON document, or on stderr as text with the causes."""
    first, *more = _message(code, error)
    if as_json:
        message = "\n".join((first, *more))
        print_json({"error": {"code": int(code), "type": type(error).__name__, "message": message}}, indent=None)
    else:
        print_to_stderr(f"rewrap: {first}", *more)
    return code


def _message(code: int, error: BaseException) -> tuple[str, ...]:
    """Return the lines of the message: one, or one for each fault of a file."""
    if code == _INTERRUPTED:
        return ("interrupted",)
    if isinstance(error, ConfigError):
        return error.lines
    if isinstance(error, KmsUnavailableError):
        return (str(error), 'What to do: docs/kms.md, "The plugin is down"')
    if code != Exit.UNEXPECTED or isinstance(error, WorkerError):
        return (str(error),)
    # A library's error may quote its input: name the class and the place, not the text.
    return (f"unexpected {type(error).__name__}; set REWRAP_TRACEBACK=1 to see where, and please report it",)


def _traceback(error: BaseException) -> Iterator[str]:
    """Yield the lines of Python's own traceback, which shows no local variables: they could be keys.

    Each message in it is one line, even if it quotes line breaks.
    """
    for part in traceback.format_exception(error):
        is_frame = part.lstrip(" |").startswith("File ")
        yield from part.rstrip("\n").split("\n") if is_frame else [part.strip("\n")]
