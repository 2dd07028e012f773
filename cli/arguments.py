"""Adds the flags that several commands share to argparse (`config.settings.flags` has the tables of settings).

`--help` imports this module: it imports no slow module.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, NoReturn

from kube_rewrap.config.settings.flags import Flag, is_on, variable

_GREATEST_REVISION = 2**63 - 1


class UsageError(Exception):
    """argparse refused the arguments."""


class Parser(argparse.ArgumentParser):
    """Accepts no abbreviated flags, and raises UsageError where argparse would end the process."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def add_settings(parser: argparse.ArgumentParser, *groups: tuple[Flag, ...]) -> None:
    """Add flags, and `--settings`, to a command; `options.read_settings` reads them."""
    for flag in (flag for group in groups for flag in group):
        if flag.kind is bool:
            parser.add_argument(flag.name, action="store_const", const="true", help=flag.help)
            continue
        action = _Joined if flag.many else "store"
        parser.add_argument(flag.name, action=action, help=flag.help, metavar=flag.metavar, type=str, default=None)
    parser.add_argument("--settings", help="TOML file with settings (docs/settings.md)", metavar="FILE")
    parser.set_defaults(flags=tuple(flag for group in groups for flag in group))


class _Repeated(argparse.Action):
    """A flag that may be repeated; `_add` says what one more use makes of the value before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own order
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002 - argparse's own order
    ) -> None:
        setattr(namespace, self.dest, self._add(getattr(namespace, self.dest), values))

    def _add(self, before: Any, value: object) -> object:
        raise NotImplementedError


class _Joined(_Repeated):
    """Each further use of the flag, and each comma, adds a value."""

    def _add(self, before: Any, value: object) -> object:
        return f"{before},{value}" if before else value


class _Several(_Repeated):
    """The first use of the flag replaces what its variable gave."""

    def _add(self, before: Any, value: object) -> object:
        return [value] if before is self.default else [*before, value]


def add_many(parser: Parser, name: str, metavar: str, summary: str) -> None:
    """Add a flag that may be repeated, with a variable that separates its values by commas; a list, empty for none."""
    parser.add_argument(name, action=_Several, default=texts_of_variable(name), metavar=metavar, help=summary)


def texts_of_variable(name: str) -> list[str]:
    """Return what the variable of a flag of `add_many` gives."""
    return os.environ.get(variable(name), "").replace(",", " ").split()


def add_text(parser: Parser, name: str, metavar: str, summary: str) -> None:
    """Add a flag with one text; None without the flag and its variable."""
    parser.add_argument(name, default=text_of_variable(name), metavar=metavar, help=summary)


def text_of_variable(name: str) -> str | None:
    """Return what the variable of a flag of `add_text` gives; an empty one gives nothing."""
    return os.environ.get(variable(name)) or None


def add_switch(parser: Parser, name: str, summary: str) -> None:
    """Add a flag that is on or off; its variable turns it on with 1, true or yes."""
    parser.add_argument(name, action="store_true", default=is_on_by_variable(name), help=summary)


def is_on_by_variable(name: str) -> bool:
    """Whether the variable of a flag of `add_switch` turns it on."""
    return is_on(os.environ.get(variable(name), ""))


def add_output(parser: Parser) -> None:
    """Add `-o`."""
    default = os.environ.get("REWRAP_OUTPUT", "text")
    parser.add_argument("-o", "--output", choices=("text", "json"), default=default, help="form of the output")


def add_configuration_path(parser: Parser) -> None:
    """Add the flag that names the EncryptionConfiguration."""
    parser.add_argument(
        "--encryption-config", metavar="FILE", help="the EncryptionConfiguration that kube-apiserver runs"
    )


def add_configuration(parser: Parser) -> None:
    """Add the flags that name the EncryptionConfiguration and accept a readable one."""
    add_configuration_path(parser)
    add_switch(parser, "--allow-readable-config", "accept a configuration file that group or others can read")


def add_days(parser: Parser, name: str, default: str, summary: str) -> None:
    """Add a flag with a number of days; its environment variable replaces the default."""
    given = os.environ.get(variable(name), default)
    parser.add_argument(name, type=_days, default=given, metavar="DAYS", help=summary)


def _days(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of days above 0")
    return number


def revision(text: str) -> int:
    """Return a revision of etcd as a flag names it. Raises ArgumentTypeError for 0, too: no write has that revision."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _GREATEST_REVISION:
        raise argparse.ArgumentTypeError(f"must be a revision of etcd, a whole number from 1 to {_GREATEST_REVISION}")
    return number
