"""What a test does with a rotation at work: it waits for a step, stops it there, or lets it end."""

from __future__ import annotations

import signal
from typing import Any

from tests.acceptance.command import Running
from tests.acceptance.control_plane import ControlPlane, wait
from tests.servers.apiserver import StandIn


def wait_for(plane: ControlPlane, because: str, apiserver: StandIn) -> dict[str, Any]:
    """Returns the record once it waits for this stand-in, for this reason."""
    begins = f"{apiserver.url} {because}" if because.startswith("runs") else f"{apiserver.url}: {because}"
    wait(lambda: any(begins in one["waits"] for one in plane.rotations()), f"wait that begins with {begins!r}")
    return plane.rotation()


def end_well(running: Running) -> str:
    """Returns what it printed."""
    ended = running.end()
    assert ended.code == 0, f"{ended.code}: {ended.stdout}{ended.stderr}"
    return ended.stdout


def stop_at_spread(plane: ControlPlane, *words: str) -> None:
    """Begins a rotation, and stops it when the new key is in the file, to read with."""
    plane.apiservers[0].refuse_to_reload(refuses=True)
    with plane.rewrap.start("rotate", *words) as running:
        plane.wait_until_at("spread")
        running.send(signal.SIGTERM)
        assert running.end().code == 3
    plane.apiservers[0].refuse_to_reload(refuses=False)
