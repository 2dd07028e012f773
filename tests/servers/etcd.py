"""Real etcd processes on loopback: two versions, one member or three; TLS, users, a quota where a test wants them.

`start_etcd` returns when every member answers linearizable reads. Members can be stopped, killed, frozen and started
again on the same data and ports. Every wait has a bound; what a member logged is in the error when it fails.
"""

import enum
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.servers.certificates import Certificates
from tests.servers.gateway import Gateway, Login
from tests.servers.ports import free_ports

SERVERS = Path(__file__).parents[2] / ".servers"
ETCDCTL = SERVERS / "3.5" / "etcdctl"
ETCDUTL = SERVERS / "3.5" / "etcdutl"

ROOT = Login("root", "root-password")
REWRAP = Login("rewrap", "rewrap-password")

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5


class EtcdVersion(enum.Enum):
    """The versions that tests run against. Crash tests use 3.4: 3.5.0 to 3.5.2 can corrupt their data in a crash."""

    V3_4 = "3.4"
    V3_5 = "3.5"

    @property
    def binary(self) -> Path:
        return SERVERS / self.value / "etcd"


class EtcdError(Exception):
    """A member did not do what it was told in time; the message ends with its log."""


class EtcdExitedError(EtcdError):
    """A member ended by itself while it was starting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions:
    """What kind of cluster a test wants. Equal options can share a cluster."""

    version: EtcdVersion = EtcdVersion.V3_5
    members: int = 1
    # Server certificate, and client certificates required.
    tls: bool = False
    # Users are on: `root`, and `rewrap` with read and write on `prefixes` alone.
    auth: bool = False
    prefixes: tuple[str, ...] = ("/registry/", "/kube-rewrap/")
    # None: etcd's default of 2 GiB.
    quota_bytes: int | None = None
    # Only tests of durability need it; without it a cluster is many times faster.
    fsync: bool = False
    extra_args: tuple[str, ...] = ()


class Member:
    """One etcd process, or the place where it was and will be again."""

    def __init__(self, name: str, command: list[str], endpoint: str, metrics_port: int, directory: Path) -> None:
        self.name = name
        self.endpoint = endpoint
        self._command = command
        self._metrics_port = metrics_port
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._living().pid

    def start(self) -> None:
        """Starts it and waits until it serves, for which it needs a majority of its cluster."""
        self.launch()
        self.wait_until_healthy()

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        if self.running:
            raise EtcdError(f"etcd member {self.name} is already running")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment()
            )

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
        """SIGSTOP: its connections stay open and nothing answers any more, once its last thread has stopped."""
        process = self._living()
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _STOP_SECONDS
        while not _is_stopped(process.pid):
            if time.monotonic() > deadline:
                raise EtcdError(f"etcd member {self.name} did not stop in {_STOP_SECONDS} s")
            time.sleep(_POLL_SECONDS)

    def thaw(self) -> None:
        """SIGCONT."""
        self._living().send_signal(signal.SIGCONT)

    def wait_until_healthy(self) -> None:
        """A member out of space is healthy here: tests want it like that."""
        deadline = time.monotonic() + _START_SECONDS
        while b'"health":"true"' not in self._read("/health?exclude=NOSPACE"):
            if not self.running:
                raise EtcdExitedError(f"etcd member {self.name} ended while it was starting:\n{self.log()}")
            if time.monotonic() > deadline:
                raise EtcdError(f"etcd member {self.name} did not get healthy in {_START_SECONDS} s:\n{self.log()}")
            time.sleep(_POLL_SECONDS)

    def restore(self, backup: Path, *options: str) -> None:
        """Replaces its data while it does not run; `options` as for `etcdutl snapshot restore`."""
        flags = ("--name", "--data-dir", "--initial-cluster", "--initial-advertise-peer-urls")
        values = {flag: self._command[self._command.index(flag) + 1] for flag in flags}
        shutil.rmtree(values["--data-dir"])
        command = [str(ETCDUTL), "snapshot", "restore", str(backup), *options]
        command += [word for pair in values.items() for word in pair]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=30, check=False)
        if done.returncode:
            raise EtcdError(f"etcdutl snapshot restore: {done.stderr}")

    def is_leader(self) -> bool:
        return b"\netcd_server_is_leader 1\n" in self._read("/metrics")

    def log(self) -> str:
        """The end of what it logged since the first start."""
        return self._log.read_text(errors="replace")[-5_000:]

    def _living(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise EtcdError(f"etcd member {self.name} is not running")
        return self._process

    def _read(self, path: str) -> bytes:
        """What it says over plain HTTP, whatever TLS and users its clients need; nothing where it doesn't answer."""
        connection = HTTPConnection("127.0.0.1", self._metrics_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except (OSError, HTTPException):
            return b""
        finally:
            connection.close()


class EtcdCluster:
    """The members, and what a client needs to reach them."""

    def __init__(self, options: EtcdOptions, members: list[Member], certificates: Certificates | None) -> None:
        self.options = options
        self.members = members
        self.certificates = certificates

    @property
    def endpoints(self) -> list[str]:
        """URLs, one for each member."""
        return [member.endpoint for member in self.members]

    @property
    def login(self) -> Login | None:
        """The user that the code under test should be, where the cluster has users."""
        return REWRAP if self.options.auth else None

    def client_flags(self) -> list[str]:
        """What the command line needs, and etcdctl alike."""
        return self._flags(self.login, self.endpoints)

    def admin(self) -> Gateway:
        """For preparing and inspecting, through the first member that runs, with every right."""
        return self._gateway(ROOT if self.options.auth else None)

    def etcdctl(self, *arguments: str, member: Member | None = None) -> str:
        """Runs etcdctl with every right, on all members or one; returns what it prints."""
        endpoints = [member.endpoint] if member else self.endpoints
        command = [str(ETCDCTL), *self._flags(ROOT if self.options.auth else None, endpoints), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=30, check=False)
        if done.returncode:
            raise EtcdError(f"etcdctl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def leader(self) -> Member:
        """The member that leads, once there is one."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            for member in self.members:
                if member.running and member.is_leader():
                    return member
            time.sleep(_POLL_SECONDS)
        raise EtcdError(f"no leader in {_START_SECONDS} s:\n{self.members[0].log()}")

    def wipe(self) -> None:
        """As new, but for the revision and the users: every member runs, no key is left."""
        for member in self.members:
            if not member.running:
                member.start()
        self.admin().delete_everything()

    def save(self, backup: Path) -> None:
        """A backup of the whole store, as operators make it."""
        self.etcdctl("snapshot", "save", str(backup), member=self.members[0])

    def restore(self, backup: Path, *options: str) -> None:
        """Ends every member and starts them again on a backup, in place: names, addresses and token are the same.

        `options` as for `etcdutl snapshot restore`.
        """
        self.close()
        for member in self.members:
            member.restore(backup, *options)
        _start_together(self.members)

    def close(self) -> None:
        """Ends what runs. The data is thrown away, so nobody waits for a clean end."""
        for member in self.members:
            if member.running:
                member.kill()

    def enable_auth(self) -> None:
        gateway = self._gateway(None)
        gateway.create_role("root", ())
        gateway.create_user(ROOT, "root")
        gateway.create_role("rewrap", self.options.prefixes)
        gateway.create_user(REWRAP, "rewrap")
        gateway.call("/v3/auth/enable", {})

    def _gateway(self, login: Login | None) -> Gateway:
        endpoint = next(member.endpoint for member in self.members if member.running)
        return Gateway(endpoint, self.certificates.context() if self.certificates else None, login)

    def _flags(self, login: Login | None, endpoints: list[str]) -> list[str]:
        flags = ["--endpoints", ",".join(endpoints)]
        if self.certificates:
            files = self.certificates
            flags += ["--cacert", str(files.cacert), "--cert", str(files.cert), "--key", str(files.key)]
        if login:
            flags += ["--user", f"{login.name}:{login.password}"]
        return flags


@contextmanager
def start_etcd(directory: Path, options: EtcdOptions) -> Iterator[EtcdCluster]:
    """A cluster with its data in the directory, until the block ends."""
    certificates = Certificates.write(directory / "certificates") if options.tls else None
    cluster = _start_on_free_ports(directory, options, certificates)
    try:
        if options.auth:
            cluster.enable_auth()
        yield cluster
    finally:
        cluster.close()


def _start_on_free_ports(directory: Path, options: EtcdOptions, certificates: Certificates | None) -> EtcdCluster:
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        place = directory / f"attempt-{attempt}"
        place.mkdir()
        cluster = EtcdCluster(options, _members(place, options, certificates), certificates)
        try:
            _start_together(cluster.members)
        except EtcdExitedError as error:
            cluster.close()
            if "address already in use" not in str(error) or attempt == _PORT_ATTEMPTS:
                raise
        except BaseException:
            cluster.close()
            raise
        else:
            return cluster
    raise AssertionError("the last attempt returns or raises")


def _start_together(members: list[Member]) -> None:
    for member in members:
        member.launch()
    for member in members:
        member.wait_until_healthy()


def _members(directory: Path, options: EtcdOptions, certificates: Certificates | None) -> list[Member]:
    names = [f"m{number}" for number in range(options.members)]
    client_ports, peer_ports, metrics_ports = _batched(free_ports(3 * len(names)), len(names))
    peers = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, peer_ports, strict=True)}
    scheme = "https" if certificates else "http"
    common = _common_arguments(options, certificates)
    common += ["--initial-cluster", ",".join(f"{name}={url}" for name, url in peers.items())]
    members = []
    for name, client_port, metrics_port in zip(names, client_ports, metrics_ports, strict=True):
        endpoint = f"{scheme}://127.0.0.1:{client_port}"
        command = [str(options.version.binary), "--name", name, "--data-dir", str(directory / name)]
        command += ["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]
        command += ["--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]]
        command += ["--listen-metrics-urls", f"http://127.0.0.1:{metrics_port}"]
        members.append(Member(name, command + common, endpoint, metrics_port, directory))
    return members


def _common_arguments(options: EtcdOptions, certificates: Certificates | None) -> list[str]:
    arguments = ["--logger", "zap", "--log-level", "warn"]
    if certificates:
        arguments += ["--cert-file", str(certificates.server_cert), "--key-file", str(certificates.server_key)]
        arguments += ["--trusted-ca-file", str(certificates.cacert), "--client-cert-auth"]
    if options.auth:
        # The least that bcrypt allows: logging in should not be what a test waits for.
        arguments += ["--bcrypt-cost", "4"]
    if options.quota_bytes is not None:
        arguments += ["--quota-backend-bytes", str(options.quota_bytes)]
    if not options.fsync:
        arguments += ["--unsafe-no-fsync"]
    return [*arguments, *options.extra_args]


def _is_stopped(pid: int) -> bool:
    """Whether no thread of a process runs. Its name, in brackets before the state, may hold anything."""
    threads = (thread.read_text() for thread in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in threads)


def _environment() -> dict[str, str]:
    """Ours, without what etcd and etcdctl would take for settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
    if platform.machine() == "aarch64":
        # etcd 3.4 refuses to run there unless it is asked to.
        kept["ETCD_UNSUPPORTED_ARCH"] = "arm64"
    return kept


def _batched(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
