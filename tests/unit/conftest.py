"""Unit tests reach no network: whoever tries learns that it belongs into another folder."""

import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest


def refuse(*_: object) -> NoReturn:
    raise AssertionError("a unit test tried to use the network")


@pytest.fixture(scope="package", autouse=True)
def no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bind", "connect", "connect_ex"):
            patch.setattr(socket.socket, name, refuse)
        yield
