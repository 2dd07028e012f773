"""Every key of a real registry belongs to the resource that the recording names, and to no other."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.resources import Layout, Located
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
