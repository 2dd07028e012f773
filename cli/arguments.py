"""Adds the flags that several commands share to argparse (`config.settings.flags` has the tables of settings).

`--help` imports this module: it imports no slow module.
"""

from __future__ import annotations

import argparse
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from kube_rewrap.cli.habits import words_for
from kube_rewrap.config.settings.flags import Flag, is_on, variable

_GREATEST_REVISION = 2**63 - 1
_TITLES = {"keyspace": "paths in etcd", "pace": "pace", "space": "etcd's quota", "budget": "write budgets of keys"}
"""Titles of the groups of flags in `--help`, where the name of the settings' group does not say enough."""


class UsageError(Exception):
    """argparse refused the arguments."""


class Parser(argparse.ArgumentParser):
    """Accepts no abbreviated flags, and raises UsageError where argparse would end the process."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)  # type: ignore[arg-type]
        self._titled: dict[str, argparse._ArgumentGroup] = {}

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        # For `--dry-run=client`, argparse says that it ignored an explicit argument, which it did not.
        said = message.replace("ignored explicit argument", "takes no value, and got")
        raise UsageError(f"{said}; see {self.prog} --help")

    @property
    def own_flags(self) -> Collection[str]:
        """All spellings of the flags of this parser, without those of its commands."""
        return self._option_string_actions

    def command(self, name: str) -> argparse.ArgumentParser:
        """Return the parser of one command. Raises KeyError."""
        [commands] = [one for one in self._actions if isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001
        found: argparse.ArgumentParser = commands.choices[name]
        return found

    def titled(self, title: str) -> argparse._ArgumentGroup:
        """Return the group of flags with this title; makes it at the first call."""
        if title not in self._titled:
            self._titled[title] = self.add_argument_group(title)
        return self._titled[title]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """See argparse; names the nearest choice."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            message = f"{value!r} is none of {', '.join(choices)}{_instead_of(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


class _Formatter(argparse.HelpFormatter):
    """Shows at each flag the variable that sets the same."""

    def _get_help_string(self, action: argparse.Action) -> str:
        own = variable_of(action)
        return f"{action.help} [{own}]" if own else action.help or ""


def _instead_of(word: str, choices: Sequence[str]) -> str:
    """As `did_you_mean`, with what another tool's word means here first."""
    words = words_for(word, choices)
    named = " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
    return f"; did you mean {named}?" if words else did_you_mean(word, choices)


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest of the known words; "" where none is near."""
    near = get_close_matches(text, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def variable_of(action: argparse.Action) -> str | None:
    """Return the variable that sets what a flag sets; None where a flag has none."""
    own: str | None = getattr(action, "variable", None)
    return own


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser, and those of its commands and verbs."""
    for action in parser._actions:  # noqa: SLF001 - argparse offers no other way to them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for command in action.choices.values():
                yield from actions_of(command)


def _with_variable(action: argparse.Action, name: str) -> None:
    action.variable = variable(name)  # type: ignore[attr-defined]


def add_settings(parser: Parser, *groups: tuple[Flag, ...]) -> None:
    """Add flags, and `--settings`, to a command; `options.read_settings` reads them."""
    for flag in (flag for group in groups for flag in group):
        group = parser.titled(_TITLES.get(flag.group, flag.group))
        if flag.kind is bool:
            added = group.add_argument(flag.name, action="store_const", const="true", help=flag.help)
        else:
            kind = _Joined if flag.many else "store"
            added = group.add_argument(flag.name, action=kind, help=flag.help, metavar=flag.metavar, type=str)
        _with_variable(added, flag.name)
    settings = parser.add_argument("--settings", help="TOML file with settings (docs/settings.md)", metavar="FILE")
    _with_variable(settings, "--settings")
    parser.set_defaults(flags=tuple(flag for group in groups for flag in group))


class _Repeated(argparse.Action, ABC):
    """A flag that may be repeated; `_add` says what one more use makes of the value before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own order
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002 - argparse's own order
    ) -> None:
        setattr(namespace, self.dest, self._add(getattr(namespace, self.dest), values))

    @abstractmethod
    def _add(self, before: Any, value: object) -> object: ...


class _Joined(_Repeated):
    """Each further use of the flag, and each comma, adds a value."""

    def _add(self, before: Any, value: object) -> object:
        return f"{before},{value}" if before else value


class _Several(_Repeated):
    """Each further use of the flag, and each comma, adds a value; the first use replaces what the variable gave."""

    def _add(self, before: Any, value: object) -> object:
        values = str(value).split(",")
        return values if before is self.default else [*before, *values]


def add_many(parser: Parser, name: str, metavar: str, summary: str) -> None:
    """Add a flag that may be repeated, with a variable; both separate values by commas. A list, empty for none."""
    given = texts_of_variable(name)
    _with_variable(parser.add_argument(name, action=_Several, default=given, metavar=metavar, help=summary), name)


def texts_of_variable(name: str) -> list[str]:
    """Return what the variable of a flag of `add_many` gives."""
    return os.environ.get(variable(name), "").replace(",", " ").split()


def add_text(parser: Parser, name: str, metavar: str, summary: str) -> None:
    """Add a flag with one text; None without the flag and its variable."""
    given = text_of_variable(name)
    _with_variable(parser.add_argument(name, default=given, metavar=metavar, help=summary), name)


def text_of_variable(name: str) -> str | None:
    """Return what the variable of a flag of `add_text` gives; an empty one gives nothing."""
    return os.environ.get(variable(name)) or None


def add_switch(parser: Parser, name: str, summary: str) -> None:
    """Add a flag that is on or off; its variable turns it on with 1, true or yes."""
    given = is_on_by_variable(name)
    _with_variable(parser.add_argument(name, action="store_true", default=given, help=summary), name)


def is_on_by_variable(name: str) -> bool:
    """Whether the variable of a flag of `add_switch` turns it on."""
    return is_on(os.environ.get(variable(name), ""))


def add_output(parser: Parser, form: str = "text") -> None:
    """Add `-o`, which takes `json` or `form`; the latter is the default, also where the variable asks for text."""
    given = os.environ.get("REWRAP_OUTPUT", "text")
    default = form if given == "text" else given
    output = parser.add_argument("-o", "--output", choices=(form, "json"), default=default, help="form of the output")
    parser.set_defaults(forms=(form, "json"))
    _with_variable(output, "--output")


def add_configuration_path(parser: Parser) -> None:
    """Add the flag that names the EncryptionConfiguration."""
    summary = "the EncryptionConfiguration that kube-apiserver runs"
    _with_variable(parser.add_argument("--encryption-config", metavar="FILE", help=summary), "--encryption-config")


def add_configuration(parser: Parser) -> None:
    """Add the flags that name the EncryptionConfiguration and accept a readable one."""
    add_configuration_path(parser)
    add_switch(parser, "--allow-readable-config", "accept a configuration file that group or others can read")


def add_days(parser: Parser, name: str, default: str, summary: str) -> None:
    """Add a flag with a number of days; its environment variable replaces the default."""
    given = os.environ.get(variable(name), default)
    _with_variable(parser.add_argument(name, type=_days, default=given, metavar="DAYS", help=summary), name)


def add_number(parser: Parser, name: str, default: int, metavar: str, summary: str) -> None:
    """Add a flag with a whole number; its variable replaces the default."""
    given = os.environ.get(variable(name), str(default))
    _with_variable(parser.add_argument(name, type=int, default=given, metavar=metavar, help=summary), name)


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
