"""Which numbers and which combinations of settings are refused, and what the message says."""

from __future__ import annotations

import math

import pytest

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.rules import check_settings
from kube_rewrap.config.settings.schema import SETTINGS, Settings
from kube_rewrap.config.settings.setting import Bounds, Setting

BOUNDED = [(one, one.bounds) for one in SETTINGS if one.bounds is not None]


def faults(group: str, **values: object) -> tuple[Fault, ...]:
    settings = Settings().with_values(group, values, "test")
    with pytest.raises(SettingsError) as caught:
        check_settings(settings)
    return caught.value.faults


def test_the_defaults_are_accepted() -> None:
    check_settings(Settings())


@pytest.mark.parametrize("one", [one for one in SETTINGS if one.kind in {int, float}], ids=lambda one: one.path)
def test_every_number_has_bounds(one: Setting) -> None:
    assert one.bounds is not None


@pytest.mark.parametrize(("one", "bounds"), BOUNDED, ids=lambda value: getattr(value, "path", ""))
def test_a_number_inside_its_bounds_is_accepted_and_one_outside_is_refused(one: Setting, bounds: Bounds) -> None:
    inside = {bounds.low, bounds.high if bounds.high is not None else bounds.low + 1} - {0}
    for number in inside | ({0} if bounds.or_zero else set()):
        check_settings(Settings().with_values(one.group, {one.name: one.kind(number)}, "test"))
    outside = {-1, bounds.low - 1} - {0} | (set() if bounds.or_zero else {0})
    outside |= {bounds.high + 1} if bounds.high is not None else set()
    for number in outside:
        [fault] = faults(one.group, **{one.name: one.kind(number)})
        assert fault == Fault(one.path, f"must be {bounds}", f"write another value, or leave it out: {one.help}")


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        pytest.param(Bounds(1, 64), "1 to 64", id="both"),
        pytest.param(Bounds(4096), "at least 4096", id="no end"),
        pytest.param(Bounds(0), "above 0", id="a low of 0 is outside"),
        pytest.param(Bounds(0, 3600.0), "above 0, at most 3600", id="a low of 0 is outside, with an end"),
        pytest.param(Bounds(1, 1_000_000, or_zero=True), "0 or 1 to 1000000", id="or zero"),
        pytest.param(Bounds(10, or_zero=True), "0 or at least 10", id="or zero, no end"),
    ],
)
def test_bounds_in_words(bounds: Bounds, text: str) -> None:
    assert str(bounds) == text


def test_not_a_number_is_in_no_bounds() -> None:
    assert not Bounds(0).include(math.nan)


@pytest.mark.parametrize(
    ("group", "flags"),
    [
        ("etcd", "--cert and --key"),
        ("broker", "--broker-cert and --broker-key"),
        ("apiservers", "--apiserver-cert and --apiserver-key"),
    ],
)
@pytest.mark.parametrize("given", ["cert", "key"])
def test_half_a_client_certificate_is_refused(group: str, flags: str, given: str) -> None:
    message = "a client certificate needs its key, and a key its certificate"
    assert faults(group, **{given: "/f.pem"})[0] == Fault(f"{group}.cert", message, f"give both {flags}")


@pytest.mark.parametrize(
    ("group", "values", "path"),
    [
        pytest.param("etcd", {"endpoints": []}, "etcd.endpoints", id="no endpoint"),
        pytest.param("keyspace", {"etcd_prefix": "/"}, "keyspace.state_prefix", id="the registry is the root"),
        pytest.param("keyspace", {"state_prefix": ""}, "keyspace.state_prefix", id="the records are the root"),
        pytest.param("keyspace", {"state_prefix": "/"}, "keyspace.state_prefix", id="the records are the root, again"),
        pytest.param("keyspace", {"state_prefix": "/a\n"}, "keyspace", id="a prefix can't be printed"),
        pytest.param("broker", {"url": "amqp://h"}, "broker.url", id="another broker"),
        pytest.param("apiservers", {"addresses": ["https://a?b"]}, "apiservers.addresses", id="a query"),
        pytest.param("apiservers", {"addresses": ["https://a:port"]}, "apiservers.addresses", id="no port"),
        pytest.param(
            "apiservers",
            {"addresses": ["http://a"], "token_file": "/t"},
            "apiservers.token_file",
            id="a token in clear",
        ),
    ],
)
def test_settings_that_no_run_could_use_are_refused(group: str, values: dict[str, object], path: str) -> None:
    assert faults(group, **values)[0].path == path
