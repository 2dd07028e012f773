"""Everything that leaves a service's processes, and the search in it for what must not."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.acceptance.marks import encodings
from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisServer
from tests.service.harness import Daemon

RECORDS = "/kube-rewrap/"
_END = "/kube-rewrap0"
"""Behind the records: the end of the history that is read."""

_SHORTEST = 6

_READ_BY_TYPE: dict[str, tuple[str | int, ...]] = {
    "string": ("GET", "KEY"),
    "list": ("LRANGE", "KEY", 0, -1),
    "hash": ("HGETALL", "KEY"),
    "set": ("SMEMBERS", "KEY"),
    "zset": ("ZRANGE", "KEY", 0, -1, "WITHSCORES"),
    "stream": ("XRANGE", "KEY", "-", "+"),
}


def shapes_of(secret: bytes) -> set[bytes]:
    """How bytes could look outside: as `encodings` says, and escaped as Python, JSON, Redis and URLs escape."""
    start = secret[:16]
    texts = (start.decode("latin-1"), start.decode("utf-8", "surrogateescape"), start.decode("utf-8", "replace"))
    escaped = {json.dumps(text)[1:-1].encode() for text in texts}
    escaped |= {ascii(text)[1:-1].encode() for text in texts}
    shapes = {*encodings(secret), repr(start)[2:-1].encode(), quote(start).encode(), *escaped}
    return {shape for shape in shapes if len(shape) >= _SHORTEST}  # the middle of a short text in base64 may be empty


def found_in(gathered: Mapping[str, bytes], marks: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """The marks in what was gathered, each with the place where it was."""
    marks = list(marks)
    return [(place, mark) for place, data in gathered.items() for mark in marks if mark in data]


def logs(daemons: Iterable[Daemon]) -> dict[str, bytes]:
    """Stdout and stderr of each daemon and its children."""
    return {f"log {number}": daemon.text.encode() for number, daemon in enumerate(daemons)}


def records(etcd: EtcdCluster, since: int) -> dict[str, bytes]:
    """Every value that any record had from revision `since` on, deleted ones too."""
    end = etcd.admin().put(_END, b"")
    wanted = {"key": _encode(RECORDS), "range_end": _encode(f"{_END}\0"), "start_revision": str(since)}
    gathered: dict[str, bytes] = {}
    with closing(HTTPConnection(urlsplit(etcd.endpoints[0]).netloc, timeout=30)) as connection:
        connection.request("POST", "/v3/watch", json.dumps({"create_request": wanted}))
        for line in connection.getresponse():
            for event in json.loads(line)["result"].get("events", []):
                name, revision = base64.b64decode(event["kv"]["key"]), int(event["kv"]["mod_revision"])
                if revision == end:
                    return gathered
                value = base64.b64decode(event["kv"].get("value", ""))
                gathered[f"{name.decode()} at {revision}"] = name + b"\0" + value
    raise AssertionError("the watch ended before the history did")


def redis_keys(redis: RedisServer) -> dict[str, bytes]:
    """Every key of Redis with its value, of whatever type."""
    with redis.admin() as client:
        client.connection_pool.connection_kwargs["decode_responses"] = False
        client.response_callbacks.clear()
        names: list[bytes] = client.execute_command("KEYS", "*")
        gathered = {}
        for name in names:
            words = _READ_BY_TYPE[client.execute_command("TYPE", name).decode()]
            value = client.execute_command(*(name if word == "KEY" else word for word in words))
            gathered[f"Redis {name!a}"] = name + b"\0" + b"\0".join(_flat(value))
    return gathered


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, list | set | tuple):
        for one in value:
            yield from _flat(one)
    else:
        yield value if isinstance(value, bytes) else str(value).encode()


@contextmanager
def redis_traffic(redis: RedisServer) -> Iterator[bytearray]:
    """All commands that any client sends to Redis while the block runs, as MONITOR writes them."""
    seen = bytearray()
    with socket.create_connection(("127.0.0.1", redis.port), 30) as channel:
        channel.sendall(b"MONITOR\r\n")
        assert channel.recv(5) == b"+OK\r\n"
        channel.settimeout(None)

        def take() -> None:
            while chunk := channel.recv(65_536):
                seen.extend(chunk)

        thread = threading.Thread(target=take, name="redis monitor")
        thread.start()
        try:
            yield seen
        finally:
            channel.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def processes_of(daemon: Daemon) -> list[Path]:
    """The directories in /proc of a daemon and of all its children: the processes of its session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended
            continue
        if int(fields[3]) == daemon.pid:
            found.append(stat.parent)
    return found


def core_limit(process: Path) -> str:
    """The soft limit of the size of a process' core files."""
    [line] = [line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core file size")]
    return line.split()[4]


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
