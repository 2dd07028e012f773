"""Which settings no run could use: values out of their range, and settings that contradict each other. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.endpoints import transport_faults
from kube_rewrap.config.settings.hours import parse_hours
from kube_rewrap.config.settings.schema import ApiserverSettings, EtcdSettings, Settings

MAX_GCM_WRITES = 2**32
"""NIST SP 800-38D 8.3: never more invocations of one key with random 96-bit nonces."""

_LONGEST = 3600.0
_LONGEST_CONVERGENCE = 86_400.0
_FASTEST = 1_000_000.0
_SHORTEST_RESYNC = 10.0


def check_settings(settings: Settings) -> None:
    """Refuse values that no run could use. Raises SettingsError with every fault."""
    rules = (
        (
            settings.pace.rate == 0 or 1 <= settings.pace.rate <= _FASTEST,
            "pace.rate",
            "must be 0 or 1 to 1000000",
            "0 means no ceiling; 500 suits most clusters",
        ),
        (1 <= settings.pace.max_window <= 4096, "pace.max_window", "must be 1 to 4096", "256 suits most clusters"),
        (1 <= settings.pace.batches <= 64, "pace.batches", "must be 1 to 64", "3 suits most clusters"),
        (1 <= settings.page.objects <= 10_000, "page.objects", "must be 1 to 10000", "500 suits most clusters"),
        (settings.page.bytes >= 4096, "page.bytes", "must be at least 4096", "4 MiB suits most clusters"),
        (0 < settings.space.stop_at <= 1, "space.stop_at", "must be above 0 and at most 1", "0.8 leaves room"),
        (
            1 <= settings.budget.gcm_limit <= MAX_GCM_WRITES,
            "budget.gcm_limit",
            "must be 1 to 4294967296",
            "NIST SP 800-38D allows no more than 2^32 with one key",
        ),
        (1 <= settings.budget.block <= 100_000, "budget.block", "must be 1 to 100000", "1000 suits most clusters"),
        (
            (settings.etcd.cert is None) == (settings.etcd.key is None),
            "etcd.cert",
            "a client certificate needs its key, and the other way round",
            "give both --cert and --key",
        ),
        (
            all(0 < bound <= _LONGEST for bound in _bounds(settings.etcd)),
            "etcd",
            "call_timeout, give_up_after and connect_timeout must be above 0 and at most 3600",
            "the defaults (10, 60 and 10 s) suit most clusters",
        ),
        (bool(settings.etcd.endpoints), "etcd.endpoints", "must name at least one endpoint", "give --endpoints"),
        (
            _apart(settings.keyspace.etcd_prefix, settings.keyspace.state_prefix),
            "keyspace.state_prefix",
            "must lie outside the registry's prefix, and the registry outside it; neither may be the root",
            "keep the default /kube-rewrap",
        ),
        (
            f"{settings.keyspace.etcd_prefix}{settings.keyspace.state_prefix}".isprintable(),
            "keyspace",
            "a prefix must be printable",
            "leave out what can't be seen",
        ),
        (
            settings.space.quota_bytes is None or settings.space.quota_bytes > 0,
            "space.quota_bytes",
            "must be above 0",
            "give etcd's --quota-backend-bytes, or leave it out",
        ),
        (
            settings.broker.url.reveal().startswith((b"redis://", b"rediss://", b"sentinel://")),
            "broker.url",
            "must begin with redis://, rediss:// or sentinel://",
            "write redis://HOST:6379/0",
        ),
        (
            (settings.broker.cert is None) == (settings.broker.key is None),
            "broker.cert",
            "a client certificate needs its key, and the other way round",
            "give both --broker-cert and --broker-key",
        ),
        (
            all(0 < seconds <= _LONGEST for seconds in _spans(settings)),
            "service",
            "poll, debounce, slice, progress and broker.timeout must be above 0 and at most 3600",
            "leave them out: the defaults suit most clusters",
        ),
        (
            settings.service.resync == 0 or settings.service.resync >= _SHORTEST_RESYNC,
            "service.resync",
            "must be 0 or at least 10",
            "86400 is once a day; 0 means never",
        ),
        (1 <= settings.service.children <= 64, "service.children", "must be 1 to 64", "one for each core at most"),
        *_apiserver_rules(settings.apiservers),
    )
    faults = [Fault(path, message, remedy) for holds, path, message, remedy in rules if not holds]
    faults += transport_faults(settings.etcd, settings.apiservers)
    try:
        parse_hours(settings.pace.windows, settings.pace.time_zone)
    except SettingsError as error:
        faults += error.faults
    try:
        Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise SettingsError("settings", faults)


def _apiserver_rules(given: ApiserverSettings) -> tuple[tuple[bool, str, str, str], ...]:
    return (
        (
            all(map(_is_address, given.addresses)),
            "apiservers.addresses",
            "must be URLs of http or https with a host, without user, query and fragment",
            "write https://HOST:6443",
        ),
        (
            # Whoever listens on the way could act as the service with it.
            given.token_file is None or not any(one.startswith("http://") for one in given.addresses),
            "apiservers.token_file",
            "a token is sent over https only",
            "write https:// in every address",
        ),
        (
            (given.cert is None) == (given.key is None),
            "apiservers.cert",
            "a client certificate needs its key, and the other way round",
            "give both --apiserver-cert and --apiserver-key",
        ),
        (
            0 < given.timeout <= _LONGEST and 0 < given.converge_timeout <= _LONGEST_CONVERGENCE,
            "apiservers",
            "timeout must be above 0 and at most 3600, converge_timeout at most 86400",
            "the defaults (10 and 900 s) suit most clusters",
        ),
    )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    plain = text.isprintable() and " " not in text and not {"@", "?", "#"} & set(text)
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _bounds(etcd: EtcdSettings) -> tuple[float, ...]:
    return etcd.call_timeout, etcd.give_up_after, etcd.connect_timeout


def _spans(settings: Settings) -> tuple[float, ...]:
    service = settings.service
    return service.poll, service.debounce, service.slice, service.progress, settings.broker.timeout


def _apart(first: str, second: str) -> bool:
    one, other = first.strip("/") + "/", second.strip("/") + "/"
    return "/" not in {one, other} and not one.startswith(other) and not other.startswith(one)
