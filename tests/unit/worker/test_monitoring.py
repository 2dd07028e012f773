"""Where metrics are served: the address as it is given."""

from __future__ import annotations

import pytest

from kube_rewrap.config.errors import SettingsError
from kube_rewrap.worker.monitoring import parse_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),  # noqa: S104 - nothing listens here
        ("[::1]:9464", ("::1", 9464)),
        ("[FE80::1]:1", ("FE80::1", 1)),
        ("Node-1.example.com:65535", ("Node-1.example.com", 65535)),
    ],
)
def test_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *("", "9464", ":9464", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1"),
        *("::1:9464", "[::1]", "[::1:9464", "user@localhost:9464", "localhost:9464/metrics", "http://localhost:9464"),
        *(
            "localhost:9464?a",
            "localhost:9464#a",
            "localhost: 9464",
            " localhost:9464",
            "localhost:09464",
            "localhost:9464\n",
        ),
    ],
)
def test_anything_else_is_refused_with_its_place_and_the_way_out(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(address)
    assert str(caught.value) == (
        "settings: service.metrics_addr: is not HOST:PORT; "
        "write 127.0.0.1:9464, [::1]:9464, or 0.0.0.0:9464 for all addresses"
    )
