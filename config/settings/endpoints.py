"""Refuses addresses that would send a password in clear text, or leave certificate files unused. Pure.

An operator who gives certificates expects an encrypted connection, and one who gives a password expects that it stays
secret. So these settings are refused, not ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from kube_rewrap.config.errors import Fault
from kube_rewrap.config.settings.schema import ApiserverSettings, EtcdSettings

_TLS = frozenset({"https", "unixs"})
_LOCAL = frozenset({"unix", "unixs"})


def transport_faults(etcd: EtcdSettings, apiservers: ApiserverSettings) -> Iterator[Fault]:
    """Yield the faults of the addresses of etcd and the kube-apiservers."""
    if any("@" in url for url in etcd.endpoints):
        remedy = "leave it out of the URL, and give --user and REWRAP_PASSWORD"
        yield Fault("etcd.endpoints", "names a user in a URL, which etcd ignores", remedy)
        return  # no fault below may repeat such a URL
    schemes = {url: scheme_of(url, etcd) for url in etcd.endpoints}
    plain = [url for url, scheme in schemes.items() if scheme not in _TLS]
    yield from _unused("etcd", etcd, plain)
    open_ = [url for url in plain if schemes[url] not in _LOCAL and not is_loopback(_host(url))]
    is_used = etcd.user is not None and etcd.password is not None
    if open_ and is_used and not etcd.allow_insecure_password:
        message = f"would go to {open_[0]} in clear text"
        yield Fault("etcd.password", message, "write https://, or accept it with --allow-insecure-password")
    yield from _unused("apiservers", apiservers, [one for one in apiservers.addresses if one.startswith("http://")])


def scheme_of(url: str, etcd: EtcdSettings) -> str:
    """Return the scheme of an endpoint; for one without, `https` if TLS files are given, as etcdctl does."""
    if "://" in url:
        return url.partition("://")[0].lower()
    return "https" if etcd.cacert or etcd.cert else "http"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its loopback address or the name `localhost`; other names are not resolved."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _unused(group: str, files: EtcdSettings | ApiserverSettings, plain: list[str]) -> Iterator[Fault]:
    if plain:
        for name in ("cacert", "cert", "key"):
            if getattr(files, name) is not None:
                remedy = "write https:// in every address, or leave the file out"
                yield Fault(f"{group}.{name}", f"is given, but {plain[0]} has no TLS that could use it", remedy)


def _host(url: str) -> str:
    """Return the host of an endpoint, "" if it has none or is malformed."""
    try:
        return urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    except ValueError:
        return ""
