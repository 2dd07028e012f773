"""Flags that set settings: one table for the commands and the daemons (`sources.py` reads them).

Every flag has a variable: `--encryption-config` is `REWRAP_ENCRYPTION_CONFIG`. The command line's parser imports this
module for `--help`, so it imports nothing that takes long.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets one field of the settings. One of kind `bool` has no value; its variable turns it on."""

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


def is_on(text: str) -> bool:
    """Whether the variable of a flag without a value turns it on."""
    return text.lower() in {"1", "true", "yes"}


PATHS = (Flag("--path", "keyspace", "paths", "RESOURCE=PATH of resources stored elsewhere", many=True, metavar="R=P"),)
ETCD = (
    Flag(
        "--endpoints", "etcd", "endpoints", "URLs of the etcd members, separated by commas", many=True, metavar="URLS"
    ),
    Flag("--cacert", "etcd", "cacert", "PEM file of the CA that signed etcd's certificates", metavar="FILE"),
    Flag("--cert", "etcd", "cert", "PEM file of the client certificate", metavar="FILE"),
    Flag("--key", "etcd", "key", "PEM file of the client certificate's key", metavar="FILE"),
    Flag("--user", "etcd", "user", "user name, or name:password (better: REWRAP_PASSWORD)", metavar="NAME"),
    Flag(
        "--allow-insecure-password",
        "etcd",
        "allow_insecure_password",
        "send the password over http to other machines, too",
        bool,
    ),
    Flag("--etcd-prefix", "keyspace", "etcd_prefix", "kube-apiserver's --etcd-prefix (/registry)", metavar="PREFIX"),
    Flag(
        "--state-prefix", "keyspace", "state_prefix", "where this tool's records are (/kube-rewrap)", metavar="PREFIX"
    ),
    *PATHS,
)
PACE = (
    Flag("--rate", "pace", "rate", "most objects rewritten a second, 0 = no ceiling (500)", float, metavar="N"),
    Flag("--max-window", "pace", "max_window", "most swaps in flight (256)", int, metavar="N"),
)
SPACE = (
    Flag("--quota-bytes", "space", "quota_bytes", "etcd's --quota-backend-bytes where it can't tell", int, metavar="N"),
)
WINDOW = (
    Flag("--window", "pace", "windows", "times when the service may write: 22:00-06:00,12:00-13:00", many=True),
    Flag("--time-zone", "pace", "time_zone", "the zone in which --window is meant (UTC)", metavar="ZONE"),
)
BROKER = (
    Flag("--broker", "broker", "url", "URL of Redis (better: REWRAP_BROKER, it may hold a password)", metavar="URL"),
    Flag("--broker-cacert", "broker", "cacert", "PEM file of the CA that signed Redis' certificate", metavar="FILE"),
    Flag("--broker-cert", "broker", "cert", "PEM file of the client certificate for Redis", metavar="FILE"),
    Flag("--broker-key", "broker", "key", "PEM file of that certificate's key", metavar="FILE"),
    Flag("--sentinel-master", "broker", "sentinel_master", "the master that the sentinels watch", metavar="NAME"),
)
ROTATION = (
    Flag("--archive", "rotation", "archive", "where contents of the file are kept before it is changed", metavar="DIR"),
)
METRICS = (
    Flag("--metrics-addr", "service", "metrics_addr", "HOST:PORT for metrics and health checks", metavar="ADDR"),
)
SCHEDULER = (
    Flag("--resync", "service", "resync", "seconds between full checks, 0 = never (86400)", float, metavar="SECONDS"),
    Flag("--poll", "service", "poll", "seconds between looks at the file (10)", float, metavar="SECONDS"),
    Flag("--progress", "service", "progress", "seconds between lines on progress (30)", float, metavar="SECONDS"),
)
WORKER = (
    Flag("--children", "service", "children", "child processes (2)", int, metavar="N"),
    Flag("--slice", "service", "slice", "seconds with one batch before other messages are served (5)", float),
)
BUDGET = (
    Flag("--gcm-limit", "budget", "gcm_limit", "writes under one aesgcm key (200000, at most 2^32)", int, metavar="N"),
)
APISERVERS = (
    Flag(
        "--apiserver",
        "apiservers",
        "addresses",
        "URL of a kube-apiserver; all of them, repeated or separated by commas",
        many=True,
        metavar="URL",
    ),
    Flag("--apiserver-cacert", "apiservers", "cacert", "PEM file of the CA of their certificates", metavar="FILE"),
    Flag("--apiserver-cert", "apiservers", "cert", "PEM file of the client certificate for them", metavar="FILE"),
    Flag("--apiserver-key", "apiservers", "key", "PEM file of that certificate's key", metavar="FILE"),
    Flag("--apiserver-token-file", "apiservers", "token_file", "file with a bearer token for them", metavar="FILE"),
    Flag(
        "--converge-timeout",
        "apiservers",
        "converge_timeout",
        "seconds to wait until all run the file (900)",
        float,
        metavar="SECONDS",
    ),
)

EVERY = (*ETCD, *PACE, *SPACE, *WINDOW, *BUDGET, *ROTATION, *BROKER, *METRICS, *SCHEDULER, *WORKER, *APISERVERS)
"""What a daemon's child process may find in its environment."""
