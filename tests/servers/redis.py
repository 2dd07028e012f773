"""A real Redis on loopback; a user, TLS and a sentinel where a test wants them.

`start_redis` returns when it answers. It keeps nothing on disk and evicts nothing. It can be stopped, killed, frozen
and started again, empty, on the same port. Every wait has a bound; what it logged is in the error when it fails.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.certificates import Certificates
from tests.servers.etcd import SERVERS
from tests.servers.gateway import Login
from tests.servers.ports import free_ports
from tests.servers.tls_proxy import TlsProxy

REDIS_SERVER = SERVERS / "redis" / "redis-server"

# Redis' own name for whoever names no user.
DEFAULT = Login("default", "default-password")
REWRAP = Login("rewrap", "rewrap-password")
MASTER = "mymaster"

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_ANSWER_SECONDS = 20.0
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5


class RedisError(Exception):
    """Redis did not do what it was told in time; the message ends with its log."""


class RedisExitedError(RedisError):
    """It ended by itself while it was starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """What kind of Redis a test wants."""

    # The user called `default` needs a password.
    password: bool = False
    # Rules of the user `rewrap`, such as "~* &* +@all"; implies `password`. None: no such user.
    acl: str | None = None
    # Through a proxy that ends TLS and requires client certificates.
    tls: bool = False
    # A sentinel that watches it. With TLS, clients reach the sentinel and Redis by TLS.
    sentinel: bool = False
    # A second Redis that follows it, which a sentinel knows of.
    replica: bool = False
    # It knows HELLO, as Redis does since 6. One that does not answers with an error that repeats the password.
    hello: bool = True


class Daemon:
    """One process, or the place where it was and will be again."""

    def __init__(self, name: str, port: int, command: list[str], login: Login | None, directory: Path) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._login = login
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._living().pid

    def start(self) -> None:
        """Starts it and waits until it answers."""
        if self.running:
            raise RedisError(f"{self.name} is already running")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_until(self._answers, "answer")

    def stop(self) -> None:
        """SIGTERM; SIGKILL where that takes too long."""
        process = self._living()
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and no zombie is left."""
        process = self._living()
        process.kill()
        process.wait(_STOP_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers any more."""
        self._living().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._living().send_signal(signal.SIGCONT)

    @contextmanager
    def admin(self) -> Iterator[redis.Redis]:
        """A client with every right, in clear text, past the proxy."""
        login = self._login
        with closing(
            redis.Redis(
                host="127.0.0.1",
                port=self.port,
                username=login.name if login else None,
                password=login.password if login else None,
                socket_timeout=_ANSWER_SECONDS,
                decode_responses=True,
                protocol=2,
                # Whoever waits for an answer asks again itself.
                retry=Retry(NoBackoff(), 0),
            )
        ) as client:
            yield client

    def run(self, *words: str | float) -> Any:
        """Runs one command with every right and returns the bare answer."""
        with self.admin() as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = _START_SECONDS) -> None:
        """Raises RedisError where it does not hold in time, or at once when the process ends."""
        deadline = time.monotonic() + seconds
        while not holds():
            if not self.running:
                raise RedisExitedError(f"{self.name} ended while it was starting:\n{self.log()}")
            if time.monotonic() > deadline:
                raise RedisError(f"{self.name} did not {what} in {seconds} s:\n{self.log()}")
            time.sleep(_POLL_SECONDS)

    def log(self) -> str:
        """The end of what it logged since the first start."""
        return self._log.read_text(errors="replace")[-5_000:]

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.run("PING") == "PONG")
        return False

    def _living(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RedisError(f"{self.name} is not running")
        return self._process


@dataclass(slots=True)
class RedisServer:
    """Redis, what stands before it, and what a client needs to reach it."""

    options: RedisOptions
    daemon: Daemon
    replica: Daemon | None
    sentinel: Daemon | None
    certificates: Certificates | None
    # Where clients find Redis, or the sentinel: the daemons' own ports, or those of the proxies before them.
    _client_port: int = field(init=False, default=0)

    @property
    def port(self) -> int:
        """Redis' own port, in clear text."""
        return self.daemon.port

    @property
    def running(self) -> bool:
        return self.daemon.running

    @property
    def pid(self) -> int:
        return self.daemon.pid

    @property
    def login(self) -> Login | None:
        """The user that the code under test should be."""
        if self.options.acl is not None:
            return REWRAP
        return DEFAULT if self.options.password else None

    @property
    def url(self) -> str:
        """What the code under test connects to; holds the password."""
        scheme = "sentinel" if self.sentinel else "rediss" if self.certificates else "redis"
        user = "" if self.login is DEFAULT else self.login.name if self.login else ""
        login = f"{user}:{self.login.password}@" if self.login else ""
        return f"{scheme}://{login}127.0.0.1:{self._client_port}/0"

    def client_flags(self) -> list[str]:
        """What the command line needs."""
        flags = ["--broker", self.url]
        if self.certificates:
            files = self.certificates
            flags += ["--broker-cacert", str(files.cacert)]
            flags += ["--broker-cert", str(files.cert), "--broker-key", str(files.key)]
        return flags

    def start(self) -> None:
        """Starts it, empty, and waits until it answers."""
        self.daemon.start()

    def stop(self) -> None:
        """SIGTERM; SIGKILL where that takes too long."""
        self.daemon.stop()

    def kill(self) -> None:
        """SIGKILL, and no zombie is left."""
        self.daemon.kill()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers any more."""
        self.daemon.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.daemon.thaw()

    def run(self, *words: str | float) -> Any:
        """Runs one command with every right and returns the bare answer: `run("GET", "key")`."""
        return self.daemon.run(*words)

    def admin(self) -> Any:
        """A context manager: a client with every right."""
        return self.daemon.admin()

    def flush(self) -> None:
        """As after FLUSHALL; scripts and settings stay."""
        self.run("FLUSHALL")

    def reset(self) -> None:
        """As new: it runs, holds nothing and knows no script."""
        if self.running:
            self.thaw()
        else:
            self.start()
        self.flush()
        self.run("SCRIPT", "FLUSH")

    def close(self) -> None:
        """Ends what runs."""
        for daemon in (self.sentinel, self.replica, self.daemon):
            if daemon and daemon.running:
                daemon.kill()


@contextmanager
def start_redis(directory: Path, options: RedisOptions) -> Iterator[RedisServer]:
    """Redis with its files in the directory, until the block ends."""
    certificates = Certificates.write(directory / "certificates") if options.tls else None
    with ExitStack() as stack:
        daemon = stack.enter_context(_started("redis", directory, options, _redis_lines(options)))
        replica = None
        if options.replica:
            lines = [*_redis_lines(options), f"replicaof 127.0.0.1 {daemon.port}"]
            replica = stack.enter_context(_started("replica", directory, options, lines))
            replica.wait_until(lambda: "master_link_status:up" in replica.run("INFO", "replication"), "follow")
        seen = daemon.port
        if certificates:
            proxy = TlsProxy(daemon.port, certificates, plain_too=options.sentinel)
            seen = stack.enter_context(proxy).port
        sentinel = None
        if options.sentinel:
            sentinel = stack.enter_context(_started("sentinel", directory, None, _sentinel_lines(options, seen)))
            sentinel.wait_until(lambda: _watches(sentinel, options.replica), f"find {MASTER}")
            seen = sentinel.port
            if certificates:
                seen = stack.enter_context(TlsProxy(sentinel.port, certificates)).port
        server = RedisServer(options, daemon, replica, sentinel, certificates)
        server._client_port = seen
        yield server


@contextmanager
def _started(name: str, directory: Path, options: RedisOptions | None, lines: list[str]) -> Iterator[Daemon]:
    """A process of its own kind on a free port; it is ended with the block, however often it was started anew."""
    daemon = None
    try:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            place = directory / f"{name}-{attempt}"
            place.mkdir()
            [port] = free_ports(1)
            (place / "redis.conf").write_text("\n".join([f"port {port}", f"dir {place}", *lines]) + "\n")
            command = [str(REDIS_SERVER), str(place / "redis.conf"), *([] if options else ["--sentinel"])]
            login = DEFAULT if options and _has_password(options) else None
            daemon = Daemon(name, port, command, login, place)
            try:
                daemon.start()
                break
            except RedisExitedError as error:
                if "Address already in use" not in str(error) or attempt == _PORT_ATTEMPTS:
                    raise
        assert daemon is not None
        yield daemon
    finally:
        if daemon is not None and daemon.running:
            daemon.kill()


def _has_password(options: RedisOptions) -> bool:
    return options.password or options.acl is not None


def _redis_lines(options: RedisOptions) -> list[str]:
    lines = ["bind 127.0.0.1", 'save ""', "appendonly no", "maxmemory-policy noeviction"]
    if not options.hello:
        lines.append('rename-command HELLO ""')
    if _has_password(options):
        # Not requirepass alone: an ACL on `user default` would take it away again.
        lines += [f"user default on >{DEFAULT.password} ~* &* +@all", f"masterauth {DEFAULT.password}"]
    if options.acl is not None:
        lines.append(f"user {REWRAP.name} on >{REWRAP.password} {options.acl}")
    return lines


def _sentinel_lines(options: RedisOptions, port: int) -> list[str]:
    lines = ["bind 127.0.0.1", f"sentinel monitor {MASTER} 127.0.0.1 {port} 1"]
    # Without a replica no test wants it to take a slow Redis for dead.
    patience = 1_000 if options.replica else 60_000
    lines += [f"sentinel down-after-milliseconds {MASTER} {patience}", f"sentinel failover-timeout {MASTER} 10000"]
    if _has_password(options):
        lines.append(f"sentinel auth-pass {MASTER} {DEFAULT.password}")
    return lines


def _watches(sentinel: Daemon, replicas: int) -> bool:
    answer: list[str] = sentinel.run("SENTINEL", "MASTER", MASTER)
    found = dict(zip(answer[::2], answer[1::2], strict=True))
    return (found["flags"], found["num-slaves"]) == ("master", str(int(replicas)))
