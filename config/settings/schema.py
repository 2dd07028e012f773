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
    """`https` turns TLS on. Without a scheme, TLS is on when `cacert` or `cert` is set; with `http://`, those files are
    refused. No user in a URL. All are tried; the first that answers is used."""
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
    """Never shown."""
    allow_insecure_password: bool = setting(
        False, "true or false", "Send the password over http to other machines, too", "--allow-insecure-password"
    )
    """Every machine on the way can then read it. Otherwise it is refused over `http://`, but for loopback and Unix
    sockets. The flag has no value; the variable is `1`, `true` or `yes`."""
    call_timeout: float = seconds(10.0, "Limit of one call to etcd")
    """kube-apiserver's own etcd calls have similar limits."""
    give_up_after: float = seconds(60.0, "How long a read is tried again over all endpoints")
    """Longer than an election, or the restart of a member, takes."""
    connect_timeout: float = seconds(10.0, "Limit of the first contact with etcd")
    """Short, so that a wrong address is reported at once."""


@dataclass(frozen=True, slots=True)
class KeyspaceSettings:
    """Where kube-apiserver's objects and our records are in etcd."""

    etcd_prefix: str = setting("/registry", "prefix", "kube-apiserver's `--etcd-prefix`", "--etcd-prefix")
    """OpenShift has `/kubernetes.io` and `/openshift.io`."""
    state_prefix: str = setting("/kube-rewrap", "prefix", "Where kube-rewrap keeps its own records", "--state-prefix")
    """Outside `etcd_prefix`. What is there: [records](records.md)."""
    paths: tuple[str, ...] = setting(
        (),
        "`RESOURCE=PATH`",
        "Paths of resources that are stored where the built-in table does not expect them",
        "--path",
    )
    """Such as `routes.route.openshift.io=routes`; never a path that belongs to another resource. In a flag or variable
    separated by commas. Give workers the same: they write only under the path of a batch's resource."""

    def __post_init__(self) -> None:
        # One spelling: with or without a slash at either end, the records are the same.
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
    """The number in flight begins at 32 and follows etcd's latency. Above 256 even a slow disk gains nothing."""
    batches: int = setting(3, "batches", "Batches worked on side by side", bounds=Bounds(1, 64))
    """While one writes its checkpoint, the others keep etcd busy."""
    windows: tuple[str, ...] = setting(
        (),
        "`HH:MM-HH:MM`",
        "Maintenance windows: times of day when the service may write, as 22:00-06:00,12:00-13:00",
        "--window",
    )
    """The end is outside; `24:00` is an end, too. None: at any time."""
    time_zone: str = setting("UTC", "zone", "IANA time zone of `--window`", "--time-zone")
    """In a zone with daylight saving an hour may come twice, or not at all; in UTC none does."""


@dataclass(frozen=True, slots=True)
class PageSettings:
    """How much is read at once."""

    objects: int = setting(500, "objects", "Most objects in a page", bounds=Bounds(1, 10_000))
    """kube-apiserver lists in the same size."""
    bytes: int = setting(4 * 2**20, "bytes", "Size that a page is aimed at", bounds=Bounds(4096))
    """Large objects make pages shorter. The first page has 8 objects; pages grow fourfold."""


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
    """None: what etcd reports (3.6 does), else etcd's own default of 2 GiB."""
    stop_at: float = setting(0.8, "share", "Share of the quota above which nothing more is written", bounds=_SHARE)
    """The rest belongs to the cluster."""


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
    """The default is what [Kubernetes' documentation](https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/)
    asks for."""
    block: int = setting(1_000, "writes", "Most write tokens reserved at once", bounds=Bounds(1, 100_000))
    """A process that crashes loses the rest of its blocks."""
    due_at: float = setting(0.8, "share", "Share of the limit from which a key is `due` for rotation", bounds=_SHARE)
    """A key may be due earlier [by its rate](key-is-due.md#due-by-its-rate)."""


@dataclass(frozen=True, slots=True)
class ApiserverSettings:
    """How to ask the kube-apiservers which EncryptionConfiguration they run."""

    addresses: tuple[str, ...] = setting(
        (), "URLs", "URL of every kube-apiserver; repeat the flag, or separate by commas", "--apiserver"
    )
    """`https://HOST:6443`; never a load balancer, which answers for one of them. Without a path, `/metrics` is asked
    for. None: no kube-apiserver can be asked, and only an [operator's statement](cli.md#converged) says that all run
    the same file."""
    cacert: str | None = file("PEM file of the CA that signed the kube-apiservers' certificates", "--apiserver-cacert")
    """Such as `/etc/kubernetes/pki/ca.crt`. None: the system's CAs, which seldom did."""
    cert: str | None = file("PEM file of the client certificate for the kube-apiservers", "--apiserver-cert")
    """Needs `key`."""
    key: str | None = file("PEM file of the key of that client certificate", "--apiserver-key")
    """Needs `cert`."""
    token_file: str | None = file("File with a bearer token for the kube-apiservers", "--apiserver-token-file")
    """Read for each request, since tokens of service accounts are replaced every hour. Sent over https only."""
    timeout: float = seconds(10.0, "Limit of one answer of a kube-apiserver")
    """A large cluster's metrics are some megabytes."""
    converge_timeout: float = seconds(
        900.0, "How long to wait until all kube-apiservers run the file", "--converge-timeout", most=86_400
    )
    """For `rewrap converged --wait`, and for one step of `rewrap rotate`; a scheduler waits without a limit. A
    kube-apiserver looks at its copy of the file once a minute, and a new copy takes its time to get there."""


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """How a key is rotated."""

    auto: bool = setting(
        False, "true or false", "The leading scheduler begins a rotation without a request when an aesgcm key is due"
    )
    """It then edits its configuration file, and needs the addresses of all kube-apiservers."""
    prune: bool = setting(False, "true or false", "Such a rotation also removes the old key, once nothing needs it")
    """Nothing in the cluster, that is. Backups still need the key: it is archived."""
    archive: str | None = setting(
        None, "directory", "Where contents of the configuration file are kept before it is changed", "--archive"
    )
    """Made with mode 0700. None: `kube-rewrap-archive` beside the file."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """How to reach Redis. It carries messages and the shared rate ceiling; nothing in it is the truth."""

    url: SecretBytes = setting(
        SecretBytes(b"redis://127.0.0.1:6379/0"),
        "URL",
        "URL of Redis (better: REWRAP_BROKER, since it may hold a password)",
        "--broker",
    )
    """`redis://USER:PASSWORD@HOST:6379/0`, `rediss://…` for TLS, or `sentinel://HOST:26379;sentinel://…/0`. Never
    shown. Every user of the machine sees a flag in the process list: give the variable, or a file of mode 0600."""
    cacert: str | None = file("PEM file of the CA that signed Redis' certificate", "--broker-cacert")
    """Trusted beside the system's CAs. None: the system's CAs alone."""
    cert: str | None = file("PEM file of the client certificate for Redis", "--broker-cert")
    """Needs `key`."""
    key: str | None = file("PEM file of the key of that client certificate", "--broker-key")
    """Needs `cert`."""
    sentinel_master: str = setting(
        "mymaster", "name", "Name of the master that the sentinels watch", "--sentinel-master"
    )
    """The default is that of Redis' own example."""
    timeout: float = seconds(5.0, "Limit of one connection attempt, and of one answer")
    """Short: without Redis work goes on, only more slowly."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How scheduler and worker behave."""

    poll: float = seconds(10.0, "Time between two reads of the configuration file", "--poll")
    """Beside the watch on its directory: some mounts report no changes."""
    debounce: float = seconds(0.5, "How long the configuration file must be unchanged before it is read")
    """Editors write a file more than once."""
    resync: float = setting(
        86_400.0,
        "seconds",
        "Time between two full checks of the cluster against the configuration, 0 = never",
        "--resync",
        bounds=Bounds(10, or_zero=True),
    )
    """A full check finds what a watch missed."""
    slice: float = seconds(5.0, "How long a worker stays with one batch before it takes other messages", "--slice")
    """A pause takes effect after this time at the latest."""
    progress: float = seconds(30.0, "Time between two `campaign.progress` lines in the log", "--progress")
    children: int = setting(2, "processes", "Child processes of a worker", "--children", bounds=Bounds(1, 64))
    """Each uses up to one core."""
    metrics_addr: str | None = setting(
        None, "`HOST:PORT`", "Address where Prometheus metrics and health checks are served", "--metrics-addr"
    )
    """None: they are not served."""


@dataclass(frozen=True, slots=True)
class PlaintextSettings:
    """How stored plaintext is treated."""

    quarantine_late: bool = setting(
        False, "true or false", "Leave plaintext alone that appears after a complete campaign, and do not seal it"
    )
    """Such an object is quarantined (`plaintext_after_completion`) in a resource of which a campaign over all
    namespaces was proven complete. A scheduler records which configurations there were: where one runs, this holds
    after a change of the file, too, a rotation's included, as long as `identity` stays listed behind a key. If a file
    has `identity` first, lists it anew, or did not govern the resource, plaintext is sealed until the next such
    campaign is complete; without a scheduler, after every change of the file. After such a campaign every
    kube-apiserver encrypts; sealed, the object would pass for one that kube-apiserver wrote. Off: kube-apiserver reads
    it all the same as long as `identity` is configured, and a kube-apiserver that had not loaded the file yet may have
    written it."""


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
    """Otherwise a plugin that wraps wrongly ruins objects, and none of them tells. It costs a call for each object.
    The seeds of KMS v2, one for each process, are always checked."""
    cache_entries: int = setting(
        10_000, "keys", "Most unwrapped keys that a process remembers", bounds=Bounds(1, 1_000_000)
    )
    """Far above the number of seeds that are in use in a cluster. KMS v1 has a key for each object, which is seldom
    read twice."""
    cache_bytes: int = setting(16 * 2**20, "bytes", "Most memory for them in a process", bounds=Bounds(65_536, 2**32))
    """Most take 1.5 kB; one whose annotations reach Kubernetes' limit takes 35 kB."""


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
    kms: KmsSettings = field(default_factory=KmsSettings)

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
