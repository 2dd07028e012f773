"""The sockets that kube-apiserver dials, as its own Go code was seen to."""

import pytest

from kube_rewrap.config.encryption.address import address_of
from kube_rewrap.config.encryption.provider import KmsProvider


@pytest.mark.parametrize(
    ("endpoint", "socket", "warns"),
    [
        ("unix:///run/k.sock", "/run/k.sock", False),
        ("unix:/run/k.sock", "/run/k.sock", False),
        ("UNIX:///run/k.sock", "/run/k.sock", False),
        ("unix://run/k.sock", "/k.sock", True),
        ("unix:///run/a%20b.sock", "/run/a b.sock", False),
        ("unix:///run/a?b.sock", "/run/a", True),
        ("unix:///run/a#b.sock", "/run/a", True),
        ("unix:///@name", "@name", False),
        ("unix:///%40name", "@name", False),
        ("unix:////@name", "//@name", False),
        ("unix://@name", "", True),
        ("unix:@name", "", True),
        ("unix:k.sock", "", True),
        ("unix://", "", True),
        ("unix:///", "", True),
        ("unix:///@", "", True),
        ("unix:///a%00b", "", True),
        ("unix:///a%ffb", "/a\udcffb", False),
        (f"unix:///{'p' * 106}", f"/{'p' * 106}", False),
        (f"unix:///{'p' * 107}", "", True),
        (f"unix:///@{'n' * 107}", f"@{'n' * 107}", False),
        (f"unix:///@{'n' * 108}", "", True),
    ],
)
def test_what_is_dialled(endpoint: str, socket: str, warns: bool) -> None:
    address = KmsProvider("v2", "a", endpoint, 3.0, None).address
    assert (address.socket, bool(address.warning)) == (socket, warns)
    assert address.is_abstract == socket.startswith("@")


def test_a_warning_escapes_what_it_shows() -> None:
    assert "\n" not in address_of("unix://host/%0a").warning
