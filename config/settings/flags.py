"""The flags that set settings, in the sets that commands take; `schema.py` declares them.

Every flag has a variable: `--encryption-config` is `REWRAP_ENCRYPTION_CONFIG`. `sources.py` reads both. Only a flag
whose value is about one file, rotation, campaign or revision has none (`cli/parser.py` says which). `--help` needs this
module, so it imports no slow module.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.config.settings.schema import SETTINGS
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
KEYSPACE = _flags("keyspace.etcd_prefix", "keyspace.paths")
ETCD = _flags("etcd", "keyspace")
PACE = _flags("pace.rate", "pace.max_window")
READS = _flags("pace.read_share")
SPACE = _flags("space")
WINDOW = _flags("pace.windows", "pace.time_zone")
BROKER = _flags("broker")
ROTATION = _flags("rotation")
METRICS = _flags("service.metrics_addr")
LOG = _flags("log")
SCHEDULER = _flags("service.poll", "service.resync", "service.progress")
WORKER = _flags("service.slice", "service.children")
BUDGET = _flags("budget")
APISERVERS = _flags("apiservers")
BACKUPS = _flags("backups")

EVERY = (
    *ETCD,
    *PACE,
    *READS,
    *SPACE,
    *WINDOW,
    *BUDGET,
    *ROTATION,
    *BROKER,
    *METRICS,
    *LOG,
    *SCHEDULER,
    *WORKER,
    *APISERVERS,
    *BACKUPS,
)
"""Every flag that sets a setting. A worker's child process reads their variables from its environment."""
