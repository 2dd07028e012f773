"""Fixtures of the observer's tests."""

from __future__ import annotations

import pytest

from kube_rewrap.scheduler.keys import observer as observing


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the interval between two writes of the record."""
    monkeypatch.setattr(observing, "_FLUSH_SECONDS", 0.01)
