"""What a daemon shows over HTTP at its address: readiness, health and metrics."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen


def shown(place: str, path: str) -> str:
    """What anybody who reaches the port is shown, whatever the status."""
    try:
        with urlopen(f"http://{place}{path}", timeout=30) as answer:
            return str(answer.read())
    except HTTPError as error:
        with error:
            return str(error.read())


def shown_when_up(place: str) -> str:
    try:
        return shown(place, "/readyz")
    except OSError:
        return ""


def readiness(place: str) -> int:
    """The status of `/readyz`; 0 while nothing listens yet."""
    try:
        with urlopen(f"http://{place}/readyz", timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0
