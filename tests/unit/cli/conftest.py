"""What the tests of the command line share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A command sends logs to the stderr of its test; the demonstration changes variables, for its child processes."""
    root = logging.getLogger()
    handlers, variables = list(root.handlers), dict(os.environ)
    yield
    root.handlers = handlers
    structlog.reset_defaults()
    os.environ.clear()
    os.environ.update(variables)
