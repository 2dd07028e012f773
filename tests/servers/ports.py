"""Free TCP ports on loopback."""

import random
import socket

# Below the range that the kernel hands out for outgoing connections: a stopped server finds its port free again.
_CANDIDATES = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago; another process may still be faster."""
    found: list[int] = []
    for port in random.sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
