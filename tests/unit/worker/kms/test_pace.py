"""Which ceiling a provider has, and under which name workers share it."""

from __future__ import annotations

from dataclasses import replace

from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.kms.pace import ceiling, pace_name
from kube_rewrap.worker.wrapped import Plugin
from tests.unit.worker.kms.scripted import PLUGIN, V1


def test_each_version_has_its_rate() -> None:
    settings = KmsSettings(v1_rate=7.0, v2_rate=70.0)
    assert (ceiling(V1, settings), ceiling(PLUGIN, settings)) == (7.0, 70.0)


def test_one_provider_has_one_bucket_on_every_node() -> None:
    assert pace_name(PLUGIN) == pace_name(replace(PLUGIN, endpoint="unix:///elsewhere.sock", timeout_seconds=1.0))


def test_providers_and_versions_have_their_own_buckets() -> None:
    plugins = [PLUGIN, replace(PLUGIN, version="v1"), V1, replace(V1, name="new")]
    assert len({pace_name(plugin) for plugin in plugins}) == 4


def test_the_name_repeats_nothing_of_the_configuration() -> None:
    name = pace_name(Plugin("x:\x1b[31m\n", "v1", "unix:///run/kms.sock"))
    assert name.isascii()
    assert name.isprintable()
    assert name.count(":") == 2
