"""The table of settings: each field with its default, unit, bounds, flag, and the reason for the default below it.

From these declarations come the checks of type and bounds, `--help`, and the tables of docs/settings.md: a field's
summary and docstring are its row there (`make docs` writes them). Rules between settings are in `rules.py`,
the sets of flags that commands take in `flags.py`; `sources.py` reads flags, variables and the settings file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.setting import Bounds, Setting, file, seconds, setting, settings_in

MAX_GCM_WRITES = 2**32
"""NIST SP 800-38D 8.3: never more invocations of one key with random 96-bit nonces."""

_SHARE = Bounds(0, 1)


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How to reach etcd. The flags are etcdctl's."""

    endpoints: tuple[str, ...] = setting(
        ("http://127.0.0.1:2379",), "URLs", "URLs of the etcd members, separated by commas", "--endpoints"
    )
    """`https` turns TLS on. Without a scheme, TLS is on when `cacert` or `cert` is set; with `http://`, rewrap refuses
    those files. It refuses a URL with a user. It tries one after another, and uses the first that answers."""
    cacert: str | None = file("PEM file of the CA that signed etcd's certificates", "--cacert")
    """None: the public CAs that come with gRPC, which do not sign etcd certificates: set it whenever TLS is on."""
    cert: str | None = file("PEM file of the client certificate for etcd", "--cert")
    """Needs `key`."""
    key: str | None = file("PEM file of the key of that client certificate", "--key")
    """Needs `cert`."""
    user: str | None = setting(
        None,
        "name",
        "User name, or name:password (better: REWRAP_PASSWORD), where etcd has authentication on",
        "--user",
    )
    """Every user of the machine sees a flag in the process list."""
    password: SecretBytes | None = setting(None, "text", "The user's password", variable="REWRAP_PASSWORD")
    """rewrap never shows it."""
    allow_insecure_password: bool = setting(
        False, "true or false", "Send the password over http to other machines, too", "--allow-insecure-password"
    )
    """Every machine on the way can then read it. By default rewrap refuses a password with `http://`, except on
    loopback addresses and Unix sockets. The flag has no value; the variable is `1`, `true` or `yes`."""
    call_timeout: float = seconds(10.0, "Limit of one call to etcd")
    """kube-apiserver's own etcd calls have similar limits."""
    give_up_after: float = seconds(60.0, "How long a read is repeated over all endpoints before it fails")
    """Longer than an election, or the restart of a member, takes."""
    connect_timeout: float = seconds(10.0, "Limit of the first contact with etcd")
    """Short, so that a wrong address is reported at once."""


@dataclass(frozen=True, slots=True)
class KeyspaceSettings:
    """Where kube-apiserver's objects and our records are in etcd."""

    etcd_prefix: str = setting("/registry", "prefix", "kube-apiserver's `--etcd-prefix`", "--etcd-prefix")
    """OpenShift has `/kubernetes.io` and `/openshift.io`."""
    state_prefix: str = setting("/kube-rewrap", "prefix", "Where kube-rewrap keeps its own records", "--state-prefix")
    """Outside `etcd_prefix`. The records are described in [records](records.md)."""
    paths: tuple[str, ...] = setting(
        (),
        "`RESOURCE=PATH`",
        "Paths in etcd of resources that the built-in table does not have, or has elsewhere",
        "--path",
    )
    """Such as `routes.route.openshift.io=routes`; never a path that belongs to another resource. Separate several by
    commas in a flag or variable. Give scheduler and workers the same: a worker writes only under the path that it knows
    of a batch's resource."""

    def __post_init__(self) -> None:
        # One spelling: a slash more or less at either end must not lead to other records.
        object.__setattr__(self, "state_prefix", "/" + self.state_prefix.strip("/"))


@dataclass(frozen=True, slots=True)
class PaceSettings:
    """How fast objects are rewritten, and when."""

    rate: float = setting(
        500.0,
        "objects a second",
        "Most objects rewritten a second, 0 = no ceiling",
        "--rate",
        bounds=Bounds(1, 1_000_000, or_zero=True),
    )
    """For one `rewrap run`, and for all workers of a cluster together. Each rewrite is a watch event for
    kube-apiserver, which drops watchers that can't keep up: 3,000 a second made it do so, 500 does not."""
    max_window: int = setting(256, "swaps", "Most swaps in flight", "--max-window", bounds=Bounds(1, 4096))
    """The number in flight begins at 32 and follows etcd's latency. More than 256 gain nothing, even on a slow disk."""
    batches: int = setting(3, "batches", "Batches that one `rewrap run` works on at a time", bounds=Bounds(1, 64))
    """While one batch writes its checkpoint, the others keep etcd busy."""
    read_share: float = setting(
        0.5,
        "share",
        "Most share of the time that reading the registry may take, 1 = reads without rests",
        "--read-share",
        bounds=_SHARE,
    )
    """For one `rewrap run`, each child process of a worker, and any other process. Between two reads of a scan a
    process rests as long as a read took; up to four times as long, and with smaller reads, while etcd is slower than it
    was. With half, other clients' slowest writes took 1.4 times as long as without a scan; without rests, 2.4 times.
    With `rate` 0 there are no rests, either."""
    windows: tuple[str, ...] = setting(
        (),
        "`HH:MM-HH:MM`",
        "Maintenance windows: times of day when the service may write, as 22:00-06:00,12:00-13:00",
        "--window",
    )
    """A window excludes its end, which may be `24:00`. None: the service may write at any time."""
    time_zone: str = setting("UTC", "zone", "IANA time zone of `--window`", "--time-zone")
    """In a zone with daylight saving, one hour of the year occurs twice and one not at all. UTC has no such hours."""

    @property
    def share_of_reads(self) -> float:
        """The share of the time that reads may take: all of it where writes have no ceiling."""
        return self.read_share if self.rate else 1.0


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How much one request reads from etcd."""

    objects: int = setting(500, "objects", "Most objects in a page", bounds=Bounds(1, 10_000))
    """kube-apiserver lists in the same size."""
    bytes: int = setting(4 * 2**20, "bytes", "Wanted size of a page", bounds=Bounds(4096))
    """Pages of large objects have fewer of them. etcd limits an answer by its number of objects only: rewrap starts
    with 8, and requests more than 48 at once only from a small database, as far as a tenth of the bytes read so far
    pays for objects of 1 MiB each, or after a scan has shown how large the objects are."""


@dataclass(frozen=True, slots=True)
class SpaceSettings:
    """When to stop before etcd is full."""

    quota_bytes: int | None = setting(
        None,
        "bytes",
        "etcd's `--quota-backend-bytes`, where etcd does not report it",
        "--quota-bytes",
        bounds=Bounds(0),
    )
    """None: the quota that etcd reports (from 3.6 on), else etcd's default of 2 GiB."""
    stop_at: float = setting(0.8, "share", "Share of the quota above which rewrap stops writing", bounds=_SHARE)
    """The rest is for the cluster's own writes."""


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """How often an aesgcm key may encrypt."""

    gcm_limit: int = setting(
        200_000,
        "writes",
        "Most writes under one aesgcm key; NIST SP 800-38D allows 2^32",
        "--gcm-limit",
        bounds=Bounds(1, MAX_GCM_WRITES),
    )
    """The default is the limit that [Kubernetes'
    documentation](https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/) gives."""
    block: int = setting(1_000, "writes", "Most write tokens reserved at once", bounds=Bounds(1, 100_000))
    """A process that crashes leaves the rest of its block unused; it stays counted as used."""
    due_at: float = setting(0.8, "share", "Share of the limit from which a key is `due` for rotation", bounds=_SHARE)
    """A key may be due earlier [by its rate](key-is-due.md#due-by-its-rate)."""


@dataclass(frozen=True, slots=True)
class ApiserverSettings:
    """How to ask the kube-apiservers which EncryptionConfiguration they run."""

    addresses: tuple[str, ...] = setting(
        (), "URLs", "URL of every kube-apiserver; repeat the flag, or separate by commas", "--apiserver"
    )
    """`https://HOST:6443`; never the URL of a load balancer, which would answer for only one of them. rewrap reads
    `/metrics` unless the URL has a path. None: rewrap asks no kube-apiserver, and only an [operator's
    statement](cli.md#converged) says that all run the same file."""
    cacert: str | None = file("PEM file of the CA that signed the kube-apiservers' certificates", "--apiserver-cacert")
    """Such as `/etc/kubernetes/pki/ca.crt`. None: the system's CAs, which seldom sign such certificates."""
    cert: str | None = file("PEM file of the client certificate for the kube-apiservers", "--apiserver-cert")
    """Needs `key`."""
    key: str | None = file("PEM file of the key of that client certificate", "--apiserver-key")
    """Needs `cert`."""
    token_file: str | None = file("File with a bearer token for the kube-apiservers", "--apiserver-token-file")
    """rewrap reads the file before each request, since tokens of service accounts are replaced every hour. It sends the
    token over https only."""
    timeout: float = seconds(10.0, "Limit of one answer of a kube-apiserver")
    """A large cluster's metrics are some megabytes."""
    converge_timeout: float = seconds(
        900.0, "How long to wait until all kube-apiservers run the file", "--converge-timeout", most=86_400
    )
    """For `rewrap converged --wait`, and for one step of `rewrap rotate`; a scheduler waits without a limit. A
    kube-apiserver reads its copy of the file once a minute, and copying the file to each node takes time, too."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """How a key is rotated."""

    auto: bool = setting(
        False, "true or false", "The leading scheduler begins a rotation without a request when an aesgcm key is due"
    )
    """It then edits its configuration file, and needs the addresses of all kube-apiservers."""
    prune: bool = setting(
        False, "true or false", "Such a rotation also removes the old key, once no object in the cluster needs it"
    )
    """Backups of etcd still need the key, so the archive keeps it."""
    archive: str | None = setting(
        None, "directory", "Directory to which a rotation copies the configuration file before each edit", "--archive"
    )
    """rewrap makes it with mode 0700. None: `kube-rewrap-archive` beside the file."""
    kms_file: str | None = setting(
        None, "file", "The KMS provider that a rotation to KMS adds, as an element of providers", "--kms-file"
    )
    """The process that edits the configuration file reads it: the leading scheduler, or `rewrap rotate`."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """How to reach Redis. It holds messages and the shared rate ceiling; all of it may be lost at any time."""

    url: SecretBytes = setting(
        SecretBytes(b"redis://127.0.0.1:6379/0"),
        "URL",
        "URL of Redis (better: REWRAP_BROKER, since it may hold a password)",
        "--broker",
    )
    """`redis://USER:PASSWORD@HOST:6379/0`, `rediss://…` for TLS, or `sentinel://HOST:26379;sentinel://…/0`. rewrap
    never shows it. Every user of the machine sees a flag in the process list: use the variable, or a settings file of
    mode 0600."""
    cacert: str | None = file("PEM file of the CA that signed Redis' certificate", "--broker-cacert")
    """Trusted in addition to the system's CAs. None: the system's CAs alone."""
    cert: str | None = file("PEM file of the client certificate for Redis", "--broker-cert")
    """Needs `key`."""
    key: str | None = file("PEM file of the key of that client certificate", "--broker-key")
    """Needs `cert`."""
    sentinel_master: str = setting(
        "mymaster", "name", "Name of the master that the sentinels watch", "--sentinel-master"
    )
    """The default is the name in Redis' example of a Sentinel configuration."""
    timeout: float = seconds(5.0, "Limit of one connection attempt, and of one answer")
    """Short, since work continues without Redis, only more slowly."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How scheduler and worker behave."""

    poll: float = seconds(10.0, "Time between two reads of the configuration file", "--poll")
    """In addition to the watch on its directory, since some mounts report no changes."""
    debounce: float = seconds(0.5, "How long the configuration file must be unchanged before it is read")
    """Editors write a file more than once."""
    resync: float = setting(
        86_400.0,
        "seconds",
        "Time between two full checks of the cluster against the configuration, 0 = never",
        "--resync",
        bounds=Bounds(10, or_zero=True),
    )
    """A full check finds writes that the watch missed."""
    slice: float = seconds(5.0, "How long a worker works on one batch before it takes another message", "--slice")
    """A pause takes effect after this time at the latest."""
    progress: float = seconds(30.0, "Time between two `campaign.progress` lines in the log", "--progress")
    children: int = setting(2, "processes", "Child processes of a worker", "--children", bounds=Bounds(1, 64))
    """Each uses up to one core."""
    metrics_addr: str | None = setting(
        None, "`HOST:PORT`", "Address where Prometheus metrics and health checks are served", "--metrics-addr"
    )
    """None: the process serves neither."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What a process logs, and how. The file's table holds for `scheduler` and `worker`."""

    level: str = setting("info", "level", "Least level of log lines on stderr, debug to critical", "--log-level")
    """`debug`, `info`, `warning`, `error` or `critical`. What each asks of you is in [log events](log-events.md). Other
    commands have the variable only; on a terminal their default is `warning`, since they show results there."""
    format: str = setting("json", "form", "Form of log lines on stderr, json or console", "--log-format")
    """`json`: one object a line. `console`: text for the eyes, in colours on a terminal; not for programs. Other
    commands have the variable only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", self.level.lower())


@dataclass(frozen=True, slots=True)
class PlaintextSettings:
    """How stored plaintext is treated."""

    quarantine_late: bool = setting(
        False, "true or false", "Quarantine plaintext that appears after a complete campaign, rather than seal it"
    )
    """Applies to each resource of which a campaign over all namespaces was proven complete. Since then every
    kube-apiserver encrypts it, and an object that another client wrote as plaintext would, once sealed, look like one
    that kube-apiserver wrote. rewrap quarantines it with the reason `plaintext_after_completion`. A scheduler records
    each configuration; with one, this continues after the file changes, in a rotation or otherwise, as long as
    `identity` stays listed behind a key. After a file that has `identity` first, adds it again, or did not govern the
    resource, rewrap seals plaintext again until the next such campaign is complete; without a scheduler, after every
    change of the file. Off by default: kube-apiserver reads plaintext anyway as long as `identity` is configured, and a
    kube-apiserver that had not loaded the file yet may have written it."""


@dataclass(frozen=True, slots=True)
class KmsSettings:
    """How the plugins of KMS providers are called."""

    v1_rate: float = setting(
        10.0,
        "calls a second",
        "Most calls a second to each KMS v1 provider, 0 = no ceiling",
        bounds=Bounds(0.1, 100_000, or_zero=True),
    )
    """For one `rewrap run`, and for all workers of a cluster together. Each object takes a call to read it and two to
    write it, and one more in every kube-apiserver that caches its resource, all out of the KMS' quota."""
    v2_rate: float = setting(
        50.0,
        "calls a second",
        "Most calls a second to each KMS v2 provider, 0 = no ceiling",
        bounds=Bounds(0.1, 100_000, or_zero=True),
    )
    """As `v1_rate`. Objects share their keys, so tens to hundreds of calls read all of a cluster."""
    check_wrapped: bool = setting(
        True, "true or false", "Have each new KMS v1 data key unwrapped before an object is sealed with it"
    )
    """Otherwise a plugin that wraps wrongly ruins objects, and no error shows it. It costs a call for each object.
    The seeds of KMS v2, one for each process, are always checked."""
    settle: float = setting(
        300.0,
        "seconds",
        "How long a KMS plugin must name another key-encryption key before rewrap takes it",
        bounds=Bounds(0, 86_400),
    )
    """The plugins on other nodes may not know it yet, and some plugins name a wrong one for a moment."""
    cache_entries: int = setting(
        10_000, "keys", "Most unwrapped keys that a process remembers", bounds=Bounds(1, 1_000_000)
    )
    """Far above the number of seeds that are in use in a cluster. KMS v1 has a key for each object, which is seldom
    read twice."""
    cache_bytes: int = setting(16 * 2**20, "bytes", "Most memory for them in a process", bounds=Bounds(65_536, 2**32))
    """Most take 1.5 kB; one whose annotations reach Kubernetes' limit takes from 35 kB to 1.4 MB."""


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """What is known of backups."""

    catalogue: str | None = file("Catalogue of the backups of etcd, as `rewrap backups add` writes it", "--catalogue")
    """It holds no key. A scheduler reads it every minute and exports its figures; `audit` and `keys` read it once.
    None: rewrap knows of no backup, and calls no key destroyable."""


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
    log: LogSettings = field(default_factory=LogSettings)
    apiservers: ApiserverSettings = field(default_factory=ApiserverSettings)
    rotation: RotationSettings = field(default_factory=RotationSettings)
    plaintext: PlaintextSettings = field(default_factory=PlaintextSettings)
    kms: KmsSettings = field(default_factory=KmsSettings)
    backups: BackupSettings = field(default_factory=BackupSettings)

    def with_values(self, group: str, values: Mapping[str, object], source: str) -> Settings:
        """Return settings with some fields of one group replaced. Raises SettingsError naming `source`."""
        known = {one.name: one for one in SETTINGS if one.group == group}
        if not known:
            groups = ", ".join(one.name for one in fields(self))
            raise _refused(source, group, "no such group of settings", f"the groups are {groups}")
        for name in values:
            if name not in known:
                raise _refused(source, f"{group}.{name}", "no such setting", f"the settings are {', '.join(known)}")
        checked = {name: known[name].typed(value, source) for name, value in values.items()}
        return replace(self, **{group: replace(getattr(self, group), **checked)})


SETTINGS: tuple[Setting, ...] = tuple(
    one for group in fields(Settings) for one in settings_in(group.name, type(getattr(Settings(), group.name)))
)
"""The whole table, in the order of docs/settings.md."""


def _refused(source: str, path: str, message: str, remedy: str) -> SettingsError:
    return SettingsError(source, (Fault(path, message, remedy),))
