"""The flags that commands take, in sets; and how flags, variables and the settings file become settings.

Every flag has a variable: `--encryption-config` is `REWRAP_ENCRYPTION_CONFIG`. A flag wins over its variable, a
variable over the settings file, the file over the default. The environment is an argument: nothing here reads that of
the process. What a flag means is in `schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.rules import check_settings
from kube_rewrap.config.settings.schema import SETTINGS, Settings, load_settings
from kube_rewrap.config.settings.setting import Setting


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets one field of the settings. One of kind `bool` has no value; its variable turns it on."""

    name: str
    group: str
    field: str
    help: str
    kind: type
    many: bool
    """Whether it takes several texts, separated by commas."""
    metavar: str

    @property
    def variable(self) -> str:
        """The environment variable that sets what the flag sets."""
        return variable(self.name)


def variable(flag: str) -> str:
    """Return the environment variable of a flag: `--etcd-prefix` → `REWRAP_ETCD_PREFIX`."""
    return "REWRAP_" + flag.removeprefix("--").replace("-", "_").upper()


def is_on(text: str) -> bool:
    """Whether the variable of a flag without a value turns it on."""
    return text.lower() in {"1", "true", "yes"}


def _flags(*places: str) -> tuple[Flag, ...]:
    """Return the flags of settings by `group.field`, or of all of a `group`, in the order of the table."""
    return tuple(_flag(one) for one in SETTINGS if one.flag and {one.group, one.path} & set(places))


def _flag(one: Setting) -> Flag:
    number = one.kind in {int, float} and one.unit != "seconds"
    metavar = "N" if number else one.unit.strip("`").upper()
    return Flag(one.flag, one.group, one.name, one.help, one.kind, one.kind is tuple, metavar)


PATHS = _flags("keyspace.paths")
ETCD = _flags("etcd", "keyspace")
PACE = _flags("pace.rate", "pace.max_window")
SPACE = _flags("space")
WINDOW = _flags("pace.windows", "pace.time_zone")
BROKER = _flags("broker")
ROTATION = _flags("rotation")
METRICS = _flags("service.metrics_addr")
SCHEDULER = _flags("service.poll", "service.resync", "service.progress")
WORKER = _flags("service.slice", "service.children")
BUDGET = _flags("budget")
APISERVERS = _flags("apiservers")

EVERY = (*ETCD, *PACE, *SPACE, *WINDOW, *BUDGET, *ROTATION, *BROKER, *METRICS, *SCHEDULER, *WORKER, *APISERVERS)
"""Every flag that sets a setting: what a worker's child process may find in its environment, as variables."""


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
    for one in SETTINGS:
        if one.variable in environment:
            settings = settings.with_values(one.group, {one.name: environment[one.variable]}, one.variable)
    check_settings(settings)
    return settings


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
