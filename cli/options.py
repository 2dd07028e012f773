"""Flags that several commands share, as argparse takes them (`config.settings.flags` has their tables)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kube_rewrap.config.settings.flags import Flag, is_on, variable
from kube_rewrap.config.settings.sources import settings_from

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.generation import Generation
    from kube_rewrap.config.settings.schema import Settings


class _Joined(argparse.Action):
    """A flag with many values: given again, it adds to what it had, as commas do."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's own order
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,  # noqa: ARG002 - argparse's own order
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def add_switch(parser: argparse.ArgumentParser, name: str, summary: str) -> None:
    """Add a flag that is on or off; its variable turns it on with 1, true or yes."""
    parser.add_argument(name, action="store_true", default=is_on(os.environ.get(variable(name), "")), help=summary)


def add_text(parser: argparse.ArgumentParser, name: str, summary: str, metavar: str) -> None:
    """Add a flag with one value, by default that of its variable."""
    parser.add_argument(name, default=os.environ.get(variable(name)), metavar=metavar, help=summary)


def add_settings(parser: argparse.ArgumentParser, *groups: tuple[Flag, ...]) -> None:
    """Add flags, and `--settings`, to a command."""
    for flag in (flag for group in groups for flag in group):
        if flag.kind is bool:
            parser.add_argument(flag.name, action="store_const", const="true", help=flag.help)
            continue
        action = _Joined if flag.many else "store"
        parser.add_argument(flag.name, action=action, help=flag.help, metavar=flag.metavar, type=str, default=None)
    parser.add_argument("--settings", help="TOML file with settings (docs/settings.md)", metavar="FILE")
    parser.set_defaults(flags=tuple(flag for group in groups for flag in group))


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `-o`."""
    default = os.environ.get("REWRAP_OUTPUT", "text")
    parser.add_argument("-o", "--output", choices=("text", "json"), default=default, help="form of the output")


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the EncryptionConfiguration."""
    parser.add_argument(
        "--encryption-config", metavar="FILE", help="the EncryptionConfiguration that kube-apiserver runs"
    )
    add_readable(parser)


def add_readable(parser: argparse.ArgumentParser) -> None:
    """Add the flag that accepts a configuration file which others can read."""
    add_switch(parser, "--allow-readable-config", "accept a configuration file that group or others can read")


def read_settings(args: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings of a command. Raises SettingsError with the flag or variable at fault."""
    given = {flag.name: getattr(args, flag.name.removeprefix("--").replace("-", "_")) for flag in args.flags}
    return settings_from(args.flags, {**given, "--settings": args.settings}, environment)


def read_configuration_path(
    args: argparse.Namespace, environment: Mapping[str, str], missing: str = "--encryption-config"
) -> str:
    """Return the path of the EncryptionConfiguration that the command names. Raises SettingsError without one."""
    from kube_rewrap.config.errors import Fault, SettingsError

    path: str | None = args.encryption_config
    path = path if path is not None else environment.get(variable("--encryption-config"))
    if path is None:
        fault = Fault(missing, "is missing", "name the file that kube-apiserver runs")
        raise SettingsError("command line", (fault,))
    return path


def read_file_argument(args: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Return the path that FILE gives, be it empty, else that of the EncryptionConfiguration. Raises SettingsError."""
    return str(args.file) if args.file is not None else read_configuration_path(args, environment, "FILE")


def read_generation(args: argparse.Namespace, environment: Mapping[str, str]) -> Generation:
    """Read the EncryptionConfiguration that the command names. Raises ConfigError."""
    path = read_configuration_path(args, environment)
    return generation_of(path, allow_readable=args.allow_readable_config)


def generation_of(path: str, *, allow_readable: bool, allow_foreign: bool = False) -> Generation:
    """Read and check one file. Raises ConfigError."""
    from kube_rewrap.config.encryption.generation import load_generation
    from kube_rewrap.config.encryption.source import read

    return load_generation(read(path, allow_readable=allow_readable, allow_foreign=allow_foreign), path)
