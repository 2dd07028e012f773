"""Reads each setting from its flag, else its variable, else the settings file, else its default.

Callers pass the environment: this module does not read that of the process.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.flags import Flag, is_on, variable
from kube_rewrap.config.settings.rules import check_settings
from kube_rewrap.config.settings.schema import SETTINGS, Settings


def settings_from(flags: Iterable[Flag], given: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Return settings from the texts of flags by name, the environment, and the settings file that one of these names.

    Raises SettingsError with the flag or variable at fault.
    """
    path = given.get("--settings") or environment.get(variable("--settings"))
    settings = load_settings(path) if path else Settings()
    for group, values, source in _beside_the_file(flags, given, environment):
        settings = settings.with_values(group, values, source)
    check_settings(settings)
    return settings


def sources_of(
    flags: Iterable[Flag], given: Mapping[str, str | None], environment: Mapping[str, str]
) -> dict[str, str]:
    """Return by which flag, variable or file each setting was given, by its path; the arguments of `settings_from`.

    The sources must be usable: `settings_from` has accepted them.
    """
    path = given.get("--settings") or environment.get(variable("--settings"))
    document = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    sources = {f"{group}.{name}": str(path) for group, values in document.items() for name in values}
    for group, values, source in _beside_the_file(flags, given, environment):
        sources |= dict.fromkeys((f"{group}.{name}" for name in values), source)
    return sources


def _beside_the_file(
    flags: Iterable[Flag], given: Mapping[str, str | None], environment: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, object], str]]:
    """Yield group, values and source of what flags and variables give; later ones override earlier ones."""
    for flag in flags:
        own = given.get(flag.name)
        text, source = (own, flag.name) if own is not None else (environment.get(flag.variable), flag.variable)
        if text is not None:
            yield flag.group, _values(flag, text, source), source
    for one in SETTINGS:
        if one.variable in environment:
            yield one.group, {one.name: environment[one.variable]}, one.variable


def _values(flag: Flag, text: str, source: str) -> dict[str, object]:
    """Return the fields of the flag's group that its text sets. Raises SettingsError."""
    if flag.field == "user" and ":" in text:
        user, _, password = text.partition(":")
        return {"user": user, "password": password}
    if flag.kind is bool:
        return {flag.field: is_on(text)}
    if flag.many:
        return {flag.field: [part.strip() for part in text.split(",") if part.strip()]}
    if flag.kind not in {int, float}:
        return {flag.field: text}
    try:
        return {flag.field: flag.kind(text)}
    except ValueError:
        message = f"is not a {'whole ' if flag.kind is int else ''}number"
        fault = Fault(source, message, f"write {flag.name} {flag.metavar}: {flag.help}")
        raise SettingsError("command line", (fault,)) from None


def load_settings(path: str) -> Settings:
    """Return the settings of a TOML file with one table a group. Raises SettingsError for the first fault."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(path, "", f"can't be read: {error.strerror}", "give a readable file with --settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Only the position is taken from its message: the rest may quote the file, which may hold a password.
        found = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        where = f" at {found[1]}" if found else ""
        raise _refused(path, "", f"is not TOML{where}", "see docs/settings.md for an example") from None
    settings = Settings()
    for group, values in document.items():
        if not isinstance(values, dict):
            raise _refused(path, group, "must be a table", f"write [{group}] and its settings below it")
        settings = settings.with_values(group, values, path)
        secrets = [one for one in SETTINGS if one.group == group and one.kind is SecretBytes and one.name in values]
        if secrets and Path(path).stat().st_mode & 0o077:
            raise _refused(path, secrets[0].path, "is in a file that group or others can use", f"chmod 600 {path}")
    return settings


def _refused(source: str, path: str, message: str, remedy: str) -> SettingsError:
    return SettingsError(source, (Fault(path, message, remedy),))
