"""Settings and the EncryptionConfiguration, as a command's arguments and the environment name them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.flags import variable
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from, sources_of


def read_settings(args: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return the settings of a command. Raises SettingsError with the flag or variable at fault."""
    return settings_from(args.flags, _given(args), environment)


def read_sources(args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Return by which flag, variable or file each setting of a command was given, by the setting's path."""
    return sources_of(args.flags, _given(args), environment)


def _given(args: argparse.Namespace) -> dict[str, str | None]:
    given = {flag.name: getattr(args, flag.name.removeprefix("--").replace("-", "_")) for flag in args.flags}
    return {**given, "--settings": args.settings}


def read_configuration_path(
    args: argparse.Namespace, environment: Mapping[str, str], missing: str = "--encryption-config"
) -> str:
    """Return the path of the EncryptionConfiguration that the command names. Raises SettingsError without one."""
    path: str | None = args.encryption_config
    path = path if path is not None else environment.get(variable("--encryption-config"))
    if path is None:
        fault = Fault(missing, "is missing", "name the file that kube-apiserver runs")
        raise SettingsError("command line", (fault,))
    return path


def environment_of(args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that give a child process what a command's flags say. Raises SettingsError."""
    variables = {variable("--encryption-config"): read_configuration_path(args, environment)}
    if args.allow_readable_config:
        variables[variable("--allow-readable-config")] = "1"
    if args.settings:
        variables[variable("--settings")] = args.settings
    given = {flag.variable: getattr(args, flag.name.removeprefix("--").replace("-", "_")) for flag in args.flags}
    return variables | {name: text for name, text in given.items() if text is not None}


def read_file_argument(args: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Return the path that FILE gives, be it empty, else that of the EncryptionConfiguration. Raises SettingsError."""
    return str(args.file) if args.file is not None else read_configuration_path(args, environment, "FILE")


def read_generation(args: argparse.Namespace, environment: Mapping[str, str]) -> Generation:
    """Read the EncryptionConfiguration that the command names. Raises ConfigError."""
    path = read_configuration_path(args, environment)
    return generation_of(path, allow_readable=args.allow_readable_config)


def generation_of(path: str, *, allow_readable: bool, allow_foreign: bool = False) -> Generation:
    """Read and check one file. Raises ConfigError."""
    return load_generation(read(path, allow_readable=allow_readable, allow_foreign=allow_foreign), path)
