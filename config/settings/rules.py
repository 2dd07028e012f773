"""Refuses settings that no run could use: numbers out of bounds, and settings that contradict each other. Pure.

The table (`schema.py`) declares the bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.endpoints import transport_faults
from kube_rewrap.config.settings.maintenance import parse_maintenance_windows
from kube_rewrap.config.settings.schema import SETTINGS, ApiserverSettings, LogSettings, Settings

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("json", "console")


def check_settings(settings: Settings) -> None:
    """Refuse values that no run could use. Raises SettingsError with every fault."""
    keyspace, pace = settings.keyspace, settings.pace
    faults = [
        *_outside_bounds(settings),
        *_log(settings.log),
        *_half_certificates(settings),
        *_etcd_and_redis(settings),
        *_apiservers(settings.apiservers),
        *transport_faults(settings.etcd, settings.apiservers),
        *_raised_by(lambda: parse_maintenance_windows(pace.windows, pace.time_zone)),
        *_raised_by(lambda: Layout.from_texts(keyspace.etcd_prefix, keyspace.paths)),
    ]
    if faults:
        raise SettingsError("settings", faults)


def _outside_bounds(settings: Settings) -> Iterator[Fault]:
    for one in SETTINGS:
        value = getattr(getattr(settings, one.group), one.name)
        if one.bounds is not None and value is not None and not one.bounds.include(value):
            yield Fault(one.path, f"must be {one.bounds}", f"write another value, or leave it out: {one.help}")


def _log(log: LogSettings) -> Iterator[Fault]:
    for name, value, allowed in (("level", log.level, LEVELS), ("format", log.format, FORMATS)):
        if value not in allowed:
            yield Fault(f"log.{name}", f"is not a {name}", f"use one of {', '.join(allowed)}")


def _half_certificates(settings: Settings) -> Iterator[Fault]:
    flags = {one.path: one.flag for one in SETTINGS}
    for group in ("etcd", "broker", "apiservers"):
        given = getattr(settings, group)
        if (given.cert is None) != (given.key is None):
            remedy = f"give both {flags[f'{group}.cert']} and {flags[f'{group}.key']}"
            yield Fault(f"{group}.cert", "a client certificate needs its key, and a key its certificate", remedy)


def _etcd_and_redis(settings: Settings) -> Iterator[Fault]:
    keyspace = settings.keyspace
    if not settings.etcd.endpoints:
        yield Fault("etcd.endpoints", "must name at least one endpoint", "give --endpoints")
    if not _apart(keyspace.etcd_prefix, keyspace.state_prefix):
        message = "must be outside the registry's prefix, and must not contain it; neither may be /"
        yield Fault("keyspace.state_prefix", message, "keep the default /kube-rewrap")
    if not f"{keyspace.etcd_prefix}{keyspace.state_prefix}".isprintable():
        yield Fault("keyspace", "a prefix must be printable", "leave out the characters that can't be printed")
    if not settings.broker.url.reveal().startswith((b"redis://", b"rediss://", b"sentinel://")):
        message = "must begin with redis://, rediss:// or sentinel://"
        yield Fault("broker.url", message, "write redis://HOST:6379/0")


def _apiservers(given: ApiserverSettings) -> Iterator[Fault]:
    if not all(map(_is_address, given.addresses)):
        message = "must be URLs of http or https with a host, without user, query and fragment"
        yield Fault("apiservers.addresses", message, "write https://HOST:6443")
    # A machine on the way that reads the token could act as the service.
    if given.token_file is not None and any(one.startswith("http://") for one in given.addresses):
        yield Fault("apiservers.token_file", "a token is sent over https only", "write https:// in every address")


def _raised_by(read: Callable[[], object]) -> tuple[Fault, ...]:
    try:
        read()
    except SettingsError as error:
        return error.faults
    return ()


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError for an invalid one
    except ValueError:
        return False
    plain = text.isprintable() and " " not in text and not {"@", "?", "#"} & set(text)
    return plain and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _apart(first: str, second: str) -> bool:
    one, other = first.strip("/") + "/", second.strip("/") + "/"
    return "/" not in {one, other} and not one.startswith(other) and not other.startswith(one)
