"""What kube-apiserver serves: what it stores has one path and back, and any other name has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.builtin import RESOURCES_BY_GROUP
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located, UnknownResource

ROWS = [json.loads(line) for line in (Path(__file__).parent / "served-resources-1.36.jsonl").read_text().splitlines()]
SERVED = {GroupResource(row["resource"], row["group"]): row["stored"] for row in ROWS}
EVENTS = GroupResource("events", "events.k8s.io")
"""Served under two groups, and stored under the other."""
STORED = sorted(resource for resource, is_stored in SERVED.items() if is_stored and resource != EVENTS)
ANSWERED = sorted([EVENTS, *(resource for resource, is_stored in SERVED.items() if not is_stored)])
BUILT_IN = {GroupResource(plural, group) for group, plurals in RESOURCES_BY_GROUP.items() for plural in plurals}
SLIPS = sorted(
    {GroupResource(resource.resource, group) for resource in STORED for group in RESOURCES_BY_GROUP} - BUILT_IN
)
"""Each stored plural with each built-in group that it is not of."""

LAYOUT = Layout()


@pytest.mark.parametrize("resource", STORED, ids=str)
def test_what_is_stored_has_its_path_and_nothing_else_has_it(resource: GroupResource) -> None:
    prefix = LAYOUT.prefix_of(resource)
    assert prefix is not None
    assert LAYOUT.resource_at(prefix + b"default/a") == Located(resource, "default", "a")
    assert LAYOUT.why_idle(resource) is None
    assert LAYOUT.owns(resource, prefix, prefix[:-1] + b"0")


@pytest.mark.parametrize("resource", ANSWERED, ids=str)
def test_what_is_answered_and_not_stored_has_no_path(resource: GroupResource) -> None:
    assert LAYOUT.prefix_of(resource) is None
    assert LAYOUT.why_idle(resource) is not None


def test_no_stored_plural_has_a_path_under_another_group() -> None:
    assert len(SLIPS) > 1000
    assert [str(slip) for slip in SLIPS if LAYOUT.prefix_of(slip) is not None or LAYOUT.why_idle(slip) is None] == []


def test_a_path_under_the_group_is_nobodys() -> None:
    """Built-in resources are stored without their group; what looks like a custom resource of theirs is unknown."""
    grouped = [one for one in BUILT_IN if one.group and (LAYOUT.prefix_of(one) or b"").count(b"/") == 3]
    assert len(grouped) > 50
    for resource in grouped:
        found = LAYOUT.resource_at(f"/registry/{resource.group}/{resource.resource}/default/a".encode())
        assert isinstance(found, UnknownResource)
