"""No password is sent to another machine in clear text, and certificate files that no connection uses are refused."""

from __future__ import annotations

from typing import Any

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.endpoints import is_loopback
from kube_rewrap.config.settings.flags import APISERVERS, ETCD
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.config.settings.sources import settings_from

USER = {"REWRAP_USER": "rewrap", "REWRAP_PASSWORD": "CanaryPassword"}
FILES = {"REWRAP_CACERT": "ca.crt", "REWRAP_CERT": "a.crt", "REWRAP_KEY": "a.key"}


def faults(**variables: str) -> dict[str, str]:
    """Message and remedy of each fault, by setting."""
    try:
        settings_from((*ETCD, *APISERVERS), {}, variables)
    except SettingsError as error:
        refused = error
    else:
        return {}
    assert "CanaryPassword" not in str(refused)
    return {fault.path: f"{fault.message}; {fault.remedy}" for fault in refused.faults}


@pytest.mark.parametrize(
    "endpoints",
    [
        "http://10.0.0.1:2379",
        "HTTP://10.0.0.1:2379",
        "10.0.0.1:2379",
        "http://etcd:2379",
        "http://localhost.example.com:2379",
        "http://[fd00::1]:2379",
        "http://127.0.0.1:2379,http://10.0.0.1:2379",
        "https://10.0.0.2:2379,http://10.0.0.1:2379",
        "http://127.0.0.1.example.com",
    ],
)
def test_a_password_is_not_sent_to_another_machine_over_http(endpoints: str) -> None:
    found = faults(REWRAP_ENDPOINTS=endpoints, **USER)
    assert list(found) == ["etcd.password"]
    assert "in clear text" in found["etcd.password"]
    assert "--allow-insecure-password" in found["etcd.password"]
    assert faults(REWRAP_ENDPOINTS=endpoints, REWRAP_USER="rewrap:CanaryPassword").keys() == found.keys()
    assert faults(REWRAP_ENDPOINTS=endpoints, REWRAP_ALLOW_INSECURE_PASSWORD="yes", **USER) == {}
    assert faults(REWRAP_ENDPOINTS=endpoints) == {}


@pytest.mark.parametrize(
    "endpoints",
    [
        "https://10.0.0.1:2379",
        "http://127.0.0.1:2379",
        "127.0.0.1:2379",
        "http://127.1.2.3",
        "http://localhost:2379,http://[::1]:2379",
        "unix:///run/etcd.sock",
        "unixs:///run/etcd.sock",
    ],
)
def test_a_password_may_stay_on_the_machine_or_go_by_tls(endpoints: str) -> None:
    assert faults(REWRAP_ENDPOINTS=endpoints, **USER) == {}


@pytest.mark.parametrize("endpoints", ["http://127.0.0.1:2379", "https://a:1,http://b:1", "unix:///run/etcd.sock"])
def test_certificates_for_an_endpoint_without_tls_are_refused(endpoints: str) -> None:
    found = faults(REWRAP_ENDPOINTS=endpoints, **FILES)
    assert list(found) == ["etcd.cacert", "etcd.cert", "etcd.key"]
    assert all("has no TLS" in words and "https://" in words for words in found.values())


@pytest.mark.parametrize("endpoints", ["https://10.0.0.1:2379", "10.0.0.1:2379", "unixs:///run/etcd.sock"])
def test_certificates_are_used_by_all_others(endpoints: str) -> None:
    assert faults(REWRAP_ENDPOINTS=endpoints, **FILES) == {}


def test_certificates_for_a_kube_apiserver_without_tls_are_refused() -> None:
    addresses = {"REWRAP_APISERVER": "https://a:6443,http://b:8080"}
    assert list(faults(**addresses, REWRAP_APISERVER_CACERT="ca.crt")) == ["apiservers.cacert"]
    assert list(faults(**addresses, REWRAP_APISERVER_TOKEN_FILE="token")) == ["apiservers.token_file"]
    assert faults(**addresses) == {}


def test_a_user_in_a_url_is_refused_and_not_repeated() -> None:
    for endpoints in ("http://rewrap:CanaryPassword@127.0.0.1:2379", "https://rewrap:CanaryPassword@10.0.0.1"):
        assert list(faults(REWRAP_ENDPOINTS=endpoints, **FILES, **USER)) == ["etcd.endpoints"]


def test_the_flag_has_no_value_and_the_file_may_hold_it() -> None:
    settings = settings_from(ETCD, {"--allow-insecure-password": "true"}, {})
    assert settings.etcd.allow_insecure_password
    assert not settings_from(ETCD, {}, {"REWRAP_ALLOW_INSECURE_PASSWORD": "0"}).etcd.allow_insecure_password


@pytest.mark.parametrize(
    ("url", "files", "in_clear"),
    [
        ("redis://me:pw@10.0.0.1", {}, True),
        ("redis://:pw@redis", {}, True),
        ("sentinel://me:pw@127.0.0.1;sentinel://10.0.0.1", {}, True),
        ("redis://10.0.0.1", {}, False),
        ("redis://me:pw@127.0.0.1", {}, False),
        ("rediss://me:pw@10.0.0.1", {}, False),
        ("sentinel://me:pw@10.0.0.1", {"cacert": "ca.crt"}, False),
    ],
)
def test_redis_password_in_clear_is_known(url: str, files: dict[str, Any], *, in_clear: bool) -> None:
    assert parse_broker(BrokerSettings(url=SecretBytes(url.encode()), **files)).is_in_clear == in_clear


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("::1", True),
        ("LOCALHOST", True),
        ("fe80::1%lo", False),
        ("", False),
    ],
)
def test_loopback(host: str, *, expected: bool) -> None:
    assert is_loopback(host) == expected
