"""Every key of a real registry belongs to the resource that the recording names, and to no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config.resources import GroupResource, Layout, Located
from tests.golden.recording import ALL, CONFIGURATION, Recorded

LAYOUT = Layout()


@pytest.mark.parametrize("recorded", ALL, ids=str)
def test_a_key_maps_to_its_recorded_resource(recorded: Recorded) -> None:
    located = LAYOUT.resource_at(recorded.key)
    governed = isinstance(located, Located) and CONFIGURATION.providers_for(located.resource) is not None
    assert (str(located.resource) if isinstance(located, Located) and governed else None) == recorded.resource


@pytest.mark.parametrize("recorded", ALL, ids=str)
def test_only_ranges_and_their_like_are_never_encrypted(recorded: Recorded) -> None:
    assert LAYOUT.never_encrypted(recorded.key) is recorded.key.startswith(b"/registry/ranges/")


SERVED = [json.loads(line) for line in (Path(__file__).parent / "served-resources-1.36.jsonl").read_text().splitlines()]
NAMES = [GroupResource(row["resource"], row["group"]) for row in SERVED]
STORED = {name for name, row in zip(NAMES, SERVED, strict=True) if row["stored"]} - {
    GroupResource("events", "events.k8s.io")  # the file must say events, which is where they are stored
}


@pytest.mark.parametrize("name", sorted(STORED), ids=str)
def test_what_kube_apiserver_stores_has_a_path_of_its_own(name: GroupResource) -> None:
    prefix = LAYOUT.prefix_of(name)
    assert prefix is not None
    assert LAYOUT.resource_at(prefix + b"a") == Located(name, None, "a")


@pytest.mark.parametrize("name", sorted(set(NAMES) - STORED), ids=str)
def test_what_kube_apiserver_serves_and_does_not_store_governs_nothing(name: GroupResource) -> None:
    assert LAYOUT.prefix_of(name) is None
    assert LAYOUT.governs_nothing(name)


@pytest.mark.parametrize("plural", sorted({name.resource for name in NAMES}))
def test_a_plural_under_another_group_governs_nothing(plural: str) -> None:
    groups = {name.group for name in NAMES if name.resource == plural}
    others = {name.group for name in NAMES} - groups
    assert others
    assert {group for group in others if LAYOUT.prefix_of(GroupResource(plural, group)) is not None} == set()
