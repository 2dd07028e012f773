"""One engine and one set of images for all tests of the image."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.bases import make_bases, make_ours, make_systemd
from tests.image.engine import Engine, engine, missing


def tell(config: pytest.Config, text: str) -> None:
    """Show a line at once: pytest keeps what a fixture prints."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    reporter.write_line(text)
    reporter.flush()


@pytest.fixture(scope="session")
def docker(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """The engine with all images. Its directory is removed in the end, after an interrupt or SIGTERM, too."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Not below /tmp, which may be in memory: images take some 2 GB.
    directory = Path(tempfile.mkdtemp(prefix="kube-rewrap-image-", dir="/var/tmp"))
    try:
        with engine(directory, builds=True) as builder:
            tell(pytestconfig, "Making the base images from Debian's packages: minutes ...")
            make_bases(builder)
            tell(pytestconfig, "Building deploy/Dockerfile ...")
            make_ours(builder)
            make_systemd(builder)
        with engine(directory, builds=False) as running:
            yield running
    finally:
        shutil.rmtree(directory)
        signal.signal(signal.SIGTERM, previous)
