"""Where a setting comes from: its flag, else its variable, else the settings file, else the default.

The environment is an argument; nothing here reads the process' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.flags import Flag, is_on, variable
from kube_rewrap.config.settings.rules import check_settings
from kube_rewrap.config.settings.schema import Settings, load_settings


def settings_from(flags: Iterable[Flag], given: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Return settings from the texts of flags by name, the environment, and the file that either names.

    Raises SettingsError with the flag or variable at fault.
    """
    path = given.get("--settings") or environment.get(variable("--settings"))
    settings = load_settings(path) if path else Settings()
    for flag in flags:
        own = given.get(flag.name)
        text, source = (own, flag.name) if own is not None else (environment.get(flag.variable), flag.variable)
        if text is not None:
            settings = settings.with_values(flag.group, _values(flag, text, source), source)
    password = environment.get("REWRAP_PASSWORD")
    if password is not None:
        settings = settings.with_values("etcd", {"password": password}, "REWRAP_PASSWORD")
    check_settings(settings)
    return settings


def _values(flag: Flag, text: str, source: str) -> dict[str, object]:
    """Turn a flag's text into fields."""
    if flag.field == "user" and ":" in text:
        user, _, password = text.partition(":")
        return {"user": user, "password": password}
    if flag.kind is bool:
        return {flag.field: is_on(text)}
    if flag.many:
        return {flag.field: [part.strip() for part in text.split(",") if part.strip()]}
    try:
        return {flag.field: flag.kind(text)}
    except ValueError:
        fault = Fault(source, "is not a number", f"write {flag.name} {'500' if flag.kind is int else '500.0'}")
        raise SettingsError("command line", (fault,)) from None
