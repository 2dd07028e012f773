"""What the operator may set, grouped, each with its meaning, unit, default and the reason for it.

Sources, the stronger first: a flag, its `REWRAP_` variable, the file of `--settings` (TOML, one table
a group), the default. This module holds values, and checks their types; `rules.py` says which ones can be
used. It reads no environment by itself.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd. The names are those of etcdctl's flags."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    """URLs of the members; `https` turns TLS on. All are tried; the first that answers is used."""
    cacert: str | None = None
    """PEM file of the CA that signed etcd's certificates. None: the public roots that come with gRPC."""
    cert: str | None = None
    """PEM file of the client certificate. None: no client certificate."""
    key: str | None = None
    """PEM file of the client certificate's key."""
    user: str | None = None
    """User name where etcd has password authentication on. None: no password."""
    password: SecretBytes | None = None
    """The user's password. Best given by `REWRAP_PASSWORD` or `name:password` in `REWRAP_USER`."""
    allow_insecure_password: bool = False
    """Whether the password may go over http to another machine, where anybody on the way can read it."""
    call_timeout: float = 10.0
    """Seconds for one call. kube-apiserver's own etcd calls have similar bounds."""
    give_up_after: float = 60.0
    """Seconds for which a read is tried again over all endpoints: outlasts an election or a restart."""
    connect_timeout: float = 10.0
    """Seconds for the first contact: a wrong address shall be told at once."""


@dataclass(frozen=True, slots=True)
class KeyspaceSettings:
    """Where things lie in etcd."""

    etcd_prefix: str = "/registry"
    """kube-apiserver's `--etcd-prefix`. OpenShift has `/kubernetes.io` and `/openshift.io`."""
    state_prefix: str = "/kube-rewrap"
    """Where this tool keeps its own records; must lie outside `etcd_prefix`."""
    paths: tuple[str, ...] = ()
    """`RESOURCE=PATH` for resources stored where the built-in table does not expect them."""

    def __post_init__(self) -> None:
        # One spelling: with or without a slash at either end, the records are the same.
        object.__setattr__(self, "state_prefix", "/" + self.state_prefix.strip("/"))


@dataclass(frozen=True, slots=True)
class PaceSettings:
    """How fast objects are rewritten."""

    rate: float = 500.0
    """Ceiling in objects a second, 0 = none. 3,000 a second made kube-apiserver drop slow watchers; 500 does not."""
    max_window: int = 256
    """Most swaps in flight. Past this nothing is gained even with a slow disk."""
    batches: int = 3
    """Batches worked on side by side: while one writes its checkpoint, others keep etcd busy."""
    windows: tuple[str, ...] = ()
    """Times of day when the service may write, as `22:00-06:00`. None: at any time."""
    time_zone: str = "UTC"
    """IANA name of the zone in which `windows` are meant. UTC: no hour comes twice."""


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How much is read at once."""

    objects: int = 500
    """Most objects in a page; kube-apiserver lists in the same size."""
    bytes: int = 4 * 2**20
    """Aimed-at bytes of a page; big objects make pages shorter."""


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """When to stop before etcd is full."""

    quota_bytes: int | None = None
    """etcd's `--quota-backend-bytes`. None: what etcd 3.6 tells, else etcd's default of 2 GiB."""
    stop_at: float = 0.8
    """Share of the quota past which nothing more is written; the rest belongs to the cluster."""


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """How often an aesgcm key may encrypt."""

    gcm_limit: int = 200_000
    """Writes under one aesgcm key, as Kubernetes' documentation asks; at most 2^32 (NIST SP 800-38D)."""
    block: int = 1_000
    """Most write tokens reserved at once; a crash loses the rest of a block."""
    due_at: float = 0.8
    """Share of the limit from which a key is due for rotation."""


@dataclass(frozen=True, slots=True)
class ApiserverSettings:
    """How to ask the kube-apiservers which EncryptionConfiguration they run."""

    addresses: tuple[str, ...] = ()
    """URL of each kube-apiserver, none left out, never a load balancer's; without a path, `/metrics` is asked for.
    None: nobody can be asked, and only an operator's word says that all run the same file."""
    cacert: str | None = None
    """PEM file of the CA that signed the kube-apiservers' certificates. None: the system's roots."""
    cert: str | None = None
    """PEM file of the client certificate. None: no client certificate."""
    key: str | None = None
    """PEM file of the client certificate's key."""
    token_file: str | None = None
    """File with a bearer token; read anew each time, for tokens of service accounts are replaced every hour."""
    timeout: float = 10.0
    """Seconds for one answer. A large cluster's metrics are some megabytes."""
    converge_timeout: float = 900.0
    """Seconds to wait until all run the file. They look at their own copy once a minute, and copies take their time."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """How a scheduler rotates keys."""

    auto: bool = False
    """Whether the leader begins a rotation by itself when an aesgcm key is due. Needs the kube-apiservers' addresses,
    and a file that it may replace."""
    prune: bool = False
    """Whether such a rotation also removes the old key, once nothing holds it any more."""
    archive: str | None = None
    """Directory where contents of the configuration file are kept before it is changed. None: `kube-rewrap-archive`
    beside the file."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """How to reach Redis. It carries messages and the shared rate ceiling; nothing in it is the truth."""

    url: SecretBytes = field(default_factory=lambda: SecretBytes(b"redis://127.0.0.1:6379/0"))
    """`redis://`, `rediss://` (TLS) or `sentinel://HOST:PORT;sentinel://...`. May hold `USER:PASSWORD@`, so it is
    masked; best given by `REWRAP_BROKER`."""
    cacert: str | None = None
    """PEM file of the CA that signed Redis' certificate. None: the system's roots."""
    cert: str | None = None
    """PEM file of the client certificate. None: no client certificate."""
    key: str | None = None
    """PEM file of the client certificate's key."""
    sentinel_master: str = "mymaster"
    """Name of the master that the sentinels watch."""
    timeout: float = 5.0
    """Seconds to connect or for one answer. Short: without Redis work goes on more slowly, but it goes on."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How the daemons behave."""

    poll: float = 10.0
    """Seconds between looks at the configuration file, beside the watch on its directory: some mounts tell nothing."""
    debounce: float = 0.5
    """Seconds for which the file must be quiet before it is read: editors write more than once."""
    resync: float = 86_400.0
    """Seconds between full checks of the cluster against the configuration, 0 = never. It finds what a watch lost."""
    slice: float = 5.0
    """Seconds that a worker stays with one batch before it looks for other messages: bounds how late a pause is."""
    progress: float = 30.0
    """Seconds between two `campaign.progress` lines in the log."""
    children: int = 2
    """Child processes of a worker. Each uses up to one core."""
    metrics_addr: str | None = None
    """`HOST:PORT` where Prometheus metrics and health checks are served. None: nowhere."""


@dataclass(frozen=True, slots=True)
class PlaintextSettings:
    """What is believed without a key."""

    quarantine_late: bool = False
    """Whether plaintext is left alone, and not sealed, where a campaign over all of a resource was proven complete,
    under this configuration or one before it, and `identity` was listed behind a key ever since: nobody should write
    any more there. Off: a kube-apiserver that lags behind may have written it, and while `identity` is configured it is
    read all the same."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All groups. Frozen: a run uses the settings it started with."""

    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    keyspace: KeyspaceSettings = field(default_factory=KeyspaceSettings)
    pace: PaceSettings = field(default_factory=PaceSettings)
    page: PageSettings = field(default_factory=PageSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)
    apiservers: ApiserverSettings = field(default_factory=ApiserverSettings)
    rotation: RotationSettings = field(default_factory=RotationSettings)
    plaintext: PlaintextSettings = field(default_factory=PlaintextSettings)

    def with_values(self, group: str, values: Mapping[str, object], source: str) -> Settings:
        """Return settings with some fields of one group replaced. Raises SettingsError naming `source`."""
        current = getattr(self, group, None) if group in _group_names() else None
        if current is None:
            known = ", ".join(_group_names())
            raise _refused(source, group, "no such group of settings", f"the groups are {known}")
        checked = {name: _checked(type(current), group, name, value, source) for name, value in values.items()}
        return replace(self, **{group: replace(current, **checked)})


def load_settings(path: str) -> Settings:
    """Read a TOML settings file. Raises SettingsError for what it does not know."""
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(path, "", f"can't be read: {error.strerror}", "give a readable file with --settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Of its words only the place is taken: the rest may quote what stands there.
        found = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        where = f" at {found[1]}" if found else ""
        raise _refused(path, "", f"is not TOML{where}", "see docs/settings.md for an example") from None
    for group, secret in (("etcd", "password"), ("broker", "url")):
        table = document.get(group)
        if isinstance(table, dict) and secret in table and Path(path).stat().st_mode & 0o077:
            place = f"{group}.{secret}"
            raise _refused(path, place, "stands in a file that group or others can use", f"chmod 600 {path}")
    settings = Settings()
    for group, values in document.items():
        if not isinstance(values, dict):
            raise _refused(path, group, "must be a table", f"write [{group}] and its settings below it")
        settings = settings.with_values(group, values, path)
    return settings


def _group_names() -> tuple[str, ...]:
    return tuple(f.name for f in fields(Settings))


def _checked(group_type: type, group: str, name: str, value: object, source: str) -> object:
    """Return the value in the field's own type, or refuse it without repeating it."""
    hints: dict[str, Any] = get_type_hints(group_type)
    path = f"{group}.{name}"
    if name not in hints:
        raise _refused(source, path, "no such setting", f"the settings are {', '.join(hints)}")
    wanted = next(hint for hint in _alternatives(hints[name]) if hint is not type(None))
    if wanted == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if wanted is SecretBytes and isinstance(value, str):
        return SecretBytes(value.encode())
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = wanted if isinstance(wanted, type) else tuple
    if isinstance(value, plain) and not (isinstance(value, bool) and wanted is not bool):
        return value
    raise _refused(source, path, f"must be {_kind(wanted)}", "see docs/settings.md")


def _alternatives(hint: object) -> tuple[object, ...]:
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _kind(wanted: object) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", SecretBytes: "a text", bool: "true or false"}
    return next((name for kind, name in names.items() if wanted is kind), "a list of texts")


def _refused(source: str, path: str, message: str, remedy: str) -> SettingsError:
    return SettingsError(source, (Fault(path, message, remedy),))
