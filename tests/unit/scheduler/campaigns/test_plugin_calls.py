"""How many calls to KMS v1 plugins a campaign takes at least, and how long at their ceiling."""

from __future__ import annotations

import pytest

from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.scheduler.campaigns.plugin_calls import (
    PluginCalls,
    calls_to_read,
    calls_to_rewrap,
    kms_v1_providers,
)
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import KeyRef

LEGACY, SECOND = KeyRef("kms", "legacy", "v1"), KeyRef("kms", "legacy", "v1#2")
CBC, OTHER = KeyRef("kms", "legacy", "v1-cbc"), KeyRef("kms", "other", "v1")
KEK, LOCAL = KeyRef("kms", "cloud", "0123456789abcdef"), KeyRef("aescbc", "v1", "0123456789abcdef")
DEFAULTS = KmsSettings()


def found(primary: KeyRef, **under: tuple[KeyRef, int]) -> Inventory:
    tally = ResourceTally("secrets", primary, (primary,))
    for key, count in under.values():
        for _ in range(count):
            tally.add_readable(key, 100, 1)
    return Inventory(7, (tally,), peeked=True)


@pytest.mark.parametrize(
    ("inventory", "reads", "rewraps"),
    [
        pytest.param(found(LOCAL, a=(LEGACY, 30), b=(LOCAL, 9)), {"legacy": 30}, {"legacy": 30}, id="away from v1"),
        pytest.param(found(LEGACY, a=(LOCAL, 5)), {}, {"legacy": 10}, id="to v1: Encrypt and Decrypt of each key"),
        pytest.param(found(LEGACY, a=(LEGACY, 4), b=(KEK, 3)), {"legacy": 4}, {"legacy": 10}, id="current ones, too"),
        pytest.param(
            found(LOCAL, a=(LEGACY, 2), b=(SECOND, 3), c=(CBC, 4), d=(OTHER, 5)),
            {"legacy": 9, "other": 5},
            {"legacy": 9, "other": 5},
            id="by name, whatever the cipher",
        ),
        pytest.param(found(KEK, a=(KEK, 9), b=(LOCAL, 9)), {}, {}, id="no v1"),
    ],
)
def test_the_calls_of_a_scan_and_of_a_campaign(
    inventory: Inventory, reads: dict[str, int], rewraps: dict[str, int]
) -> None:
    assert {one.provider: one.calls for one in calls_to_read(inventory, DEFAULTS)} == reads
    assert {one.provider: one.calls for one in calls_to_rewrap(inventory, DEFAULTS)} == rewraps


def test_keys_that_are_not_checked_take_one_call_each() -> None:
    [calls] = calls_to_rewrap(found(LEGACY, a=(LOCAL, 5)), KmsSettings(check_wrapped=False))
    assert calls.calls == 5


def test_the_time_at_the_ceiling_and_without_one() -> None:
    slow, free = PluginCalls("legacy", 1_200, 10.0), PluginCalls("legacy", 1_200, 0.0)
    assert str(slow) == (
        "1,200 calls to the plugin of the KMS v1 provider 'legacy', at most 10 a second (v1_rate), so at least 120 s"
    )
    assert str(free) == "1,200 calls to the plugin of the KMS v1 provider 'legacy', without a ceiling (v1_rate)"
    assert (slow.to_json()["seconds"], free.to_json()["seconds"]) == (120.0, None)


def test_the_v1_providers_of_a_configuration() -> None:
    chains = (("secrets", (KEK, LEGACY, LOCAL)), ("configmaps", (OTHER, LEGACY)))
    assert kms_v1_providers(GenerationRecord("sha256:1", chains, "sha256:1")) == ("legacy", "other")
