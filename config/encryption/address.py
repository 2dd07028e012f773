"""The socket that kube-apiserver dials for the endpoint of a KMS plugin.

kube-apiserver validates the scheme of an endpoint only, and dials what Go's `url.Parse` leaves as Path (kubernetes/kms
pkg/util/util.go). So an endpoint may load and never connect, or connect to another socket than the text suggests.
"""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.config.parsing.golang import url_path

LONGEST = 107
"""Bytes of a path, or of an abstract name: `sun_path` has 108, one of them for a NUL."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where kube-apiserver connects to, and where we do."""

    socket: str
    """A path, or `@name` for a name in the abstract namespace; "" where no socket can have this address."""
    warning: str = ""
    """Why `socket` is empty, or is not what the endpoint's text suggests; "" if neither."""

    @property
    def is_abstract(self) -> bool:
        """Whether the socket has a name in the abstract namespace, and none in the file system."""
        return self.socket.startswith("@")


def address_of(endpoint: str) -> Address:
    """Return what kube-apiserver dials for an endpoint that it accepts."""
    path, lost = url_path(endpoint)
    socket = path[1:] if path.startswith("/@") else path
    if socket in {"", "/", "@"}:
        return Address("", "the endpoint names no socket, so kube-apiserver never connects")
    if "\0" in socket:
        return Address("", "the endpoint has a NUL byte in its path, so kube-apiserver never connects")
    length = len(socket.removeprefix("@").encode("utf-8", "surrogateescape"))
    if length > LONGEST:
        return Address("", f"the socket's address has {length} bytes, and Linux allows {LONGEST}")
    if lost:
        return Address(socket, f"a URL's path does not include {lost!r}: kube-apiserver dials {socket!r}")
    return Address(socket)
