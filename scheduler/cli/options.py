"""Flags that several commands share, and how flag, environment and file become settings.

Every flag has a variable: `--encryption-config` is `REWRAP_ENCRYPTION_CONFIG`. A flag wins over its
variable, a variable over the settings file, the file over the default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.generation import Generation
    from config.settings import Settings


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets one field of the settings."""

    name: str
    group: str
    field: str
    help: str
    kind: type = str
    many: bool = False
    metavar: str | None = None

    @property
    def variable(self) -> str:
        """The environment variable that stands for the flag."""
        return variable(self.name)


def variable(flag: str) -> str:
    """Return the environment variable of a flag: `--etcd-prefix` → `REWRAP_ETCD_PREFIX`."""
    return "REWRAP_" + flag.removeprefix("--").replace("-", "_").upper()


ETCD = (
    Flag(
        "--endpoints", "etcd", "endpoints", "URLs of the etcd members, separated by commas", many=True, metavar="URLS"
    ),
    Flag("--cacert", "etcd", "cacert", "PEM file of the CA that signed etcd's certificates", metavar="FILE"),
    Flag("--cert", "etcd", "cert", "PEM file of the client certificate", metavar="FILE"),
    Flag("--key", "etcd", "key", "PEM file of the client certificate's key", metavar="FILE"),
    Flag("--user", "etcd", "user", "user name, or name:password (better: REWRAP_PASSWORD)", metavar="NAME"),
    Flag("--etcd-prefix", "keyspace", "etcd_prefix", "kube-apiserver's --etcd-prefix (/registry)", metavar="PREFIX"),
    Flag(
        "--state-prefix", "keyspace", "state_prefix", "where this tool's records are (/kube-rewrap)", metavar="PREFIX"
    ),
    Flag("--path", "keyspace", "paths", "RESOURCE=PATH of resources stored elsewhere", many=True, metavar="R=P"),
)
PACE = (
    Flag("--rate", "pace", "rate", "most objects rewritten a second, 0 = no ceiling (500)", float, metavar="N"),
    Flag("--max-window", "pace", "max_window", "most swaps in flight (256)", int, metavar="N"),
    Flag("--quota-bytes", "space", "quota_bytes", "etcd's --quota-backend-bytes where it can't tell", int, metavar="N"),
)
BUDGET = (
    Flag("--gcm-limit", "budget", "gcm_limit", "writes under one aesgcm key (200000, at most 2^32)", int, metavar="N"),
)


def add_switch(parser: argparse.ArgumentParser, name: str, summary: str) -> None:
    """Add a flag that is on or off; its variable turns it on with 1, true or yes."""
    is_on = os.environ.get(variable(name), "").lower() in {"1", "true", "yes"}
    parser.add_argument(name, action="store_true", default=is_on, help=summary)


def add_text(parser: argparse.ArgumentParser, name: str, summary: str, metavar: str) -> None:
    """Add a flag with one value, by default that of its variable."""
    parser.add_argument(name, default=os.environ.get(variable(name)), metavar=metavar, help=summary)


def add_settings(parser: argparse.ArgumentParser, *groups: tuple[Flag, ...]) -> None:
    """Add flags, and `--settings`, to a command."""
    for flag in (flag for group in groups for flag in group):
        parser.add_argument(flag.name, help=flag.help, metavar=flag.metavar, type=str, default=None)
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
    from config.settings import Settings, check_settings, load_settings

    path = args.settings or environment.get(variable("--settings"))
    settings = load_settings(path) if path else Settings()
    for flag in args.flags:
        given = getattr(args, flag.name.removeprefix("--").replace("-", "_"))
        text, source = (given, flag.name) if given is not None else (environment.get(flag.variable), flag.variable)
        if text is not None:
            settings = settings.with_values(flag.group, _values(flag, text, source), source)
    password = environment.get("REWRAP_PASSWORD")
    if password is not None:
        settings = settings.with_values("etcd", {"password": password}, "REWRAP_PASSWORD")
    check_settings(settings)
    return settings


def _values(flag: Flag, text: str, source: str) -> dict[str, object]:
    """Turn a flag's text into fields."""
    from config.errors import Fault, SettingsError

    if flag.field == "user" and ":" in text:
        user, _, password = text.partition(":")
        return {"user": user, "password": password}
    if flag.many:
        return {flag.field: [part.strip() for part in text.split(",") if part.strip()]}
    try:
        return {flag.field: flag.kind(text)}
    except ValueError:
        fault = Fault(source, "is not a number", f"write {flag.name} {'500' if flag.kind is int else '500.0'}")
        raise SettingsError("command line", (fault,)) from None


def read_generation(args: argparse.Namespace, environment: Mapping[str, str]) -> Generation:
    """Read the EncryptionConfiguration that the command names. Raises ConfigError."""
    from config.errors import Fault, SettingsError

    path = getattr(args, "encryption_config", None) or environment.get(variable("--encryption-config"))
    if path is None:
        fault = Fault("--encryption-config", "is missing", "name the file that kube-apiserver runs")
        raise SettingsError("command line", (fault,))
    return generation_of(path, allow_readable=args.allow_readable_config)


def generation_of(path: str, *, allow_readable: bool) -> Generation:
    """Read and check one file. Raises ConfigError."""
    from config.generation import load_generation
    from config.source import read

    return load_generation(read(path, allow_readable=allow_readable), path)
