"""Fixtures for every kind of test. `tests/README.md` lists them."""

import gc
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

import hypothesis
import pytest

from tests.acceptance.forked import stop_server
from tests.measured import is_measured, unmeasured
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion, start_etcd
from tests.servers.redis import REDIS_SERVER, RedisOptions, RedisServer, start_redis

# Two busy cores make single examples slow at times; each test has its own time-out.
hypothesis.settings.register_profile("kube-rewrap", deadline=None)


def pytest_configure() -> None:
    """Nothing of the caller's shell reaches the code under test, and no proxy stands before loopback."""
    hypothesis.settings.load_profile("kube-rewrap")
    os.umask(0o022)  # some systems let the group write, and what others may write to is refused
    for name in list(os.environ):
        if name.startswith(("REWRAP_", "ETCD")):
            del os.environ[name]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"


def pytest_sessionfinish() -> None:
    """Nothing writes figures of coverage any more when they are put together."""
    stop_server()


def pytest_report_header() -> list[str]:
    """The servers that the tests run on."""
    programs = {**{f"etcd {one.value}": one.binary for one in EtcdVersion}, "Redis": REDIS_SERVER}
    return [f"{name}: {_version_of(program)}" for name, program in programs.items()]


def _version_of(program: Path) -> str:
    if not program.exists():
        return "not there"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    return said.partition("\n")[0].removeprefix("etcd Version: ")


_TESTS = Path(__file__).parent
# Seconds that a test of these folders takes, which waits for servers more than it computes: the longest begin first.
_WAITING = {"service": 20.0, "faults": 3.0, "acceptance": 2.5, "integration": 1.5, "contract": 0.2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that compute, file by file, are spread over the time of those that wait, each of which goes for itself.

    So neither the machine is idle, nor overrun. What belongs together is told to xdist, which otherwise gives a test
    after the other to the process that is free.
    """
    files = {path: path.relative_to(_TESTS) for path in {item.path for item in items}}
    folders = {item: files[item.path].parts[0] for item in items}
    waiting = [item for item in items if folders[item] in _WAITING]
    computing = [item for item in items if folders[item] not in _WAITING]
    waiting.sort(key=lambda item: -_WAITING[folders[item]])
    places: dict[pytest.Item, float] = {}
    for kind in (waiting, computing):
        ends = list(accumulate(_WAITING.get(folders[item], 1.0) for item in kind))
        places |= {item: end / ends[-1] for item, end in zip(kind, ends, strict=True)}
    for item in computing:
        item.add_marker(pytest.mark.xdist_group(str(files[item.path])))
    items.sort(key=places.__getitem__)
    gc.collect()
    gc.freeze()  # what was collected stays to the end: looking through it for garbage takes longer than many a test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measures a test and its fixtures, if it counts for coverage."""
    if is_measured(item.path.relative_to(_TESTS)):
        return (yield)
    with unmeasured():
        return (yield)


class SharedClusters:
    """Started when first asked for, one for each kind, and kept until the tests end."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._clusters: dict[EtcdOptions, EtcdCluster] = {}

    def empty(self, options: EtcdOptions) -> EtcdCluster:
        """The cluster of that kind, without a key in it."""
        require(options.version)
        if options not in self._clusters:
            directory = self._directory / f"etcd-{len(self._clusters)}"
            directory.mkdir()
            self._clusters[options] = self._stack.enter_context(start_etcd(directory, options))
        cluster = self._clusters[options]
        cluster.wipe()
        return cluster


def require(version: EtcdVersion) -> None:
    """Skips the test where etcd 3.4 could not be had; anything else missing is an error."""
    if version.binary.exists():
        return
    reason = f"no etcd {version.value} at {version.binary}: `make test` puts it there"
    if version is EtcdVersion.V3_4 and not os.environ.get("CI"):
        pytest.skip(f"{reason}, where apt can download Debian 12's etcd-server")
    pytest.fail(reason)


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedClusters]:
    with ExitStack() as stack:
        yield SharedClusters(tmp_path_factory.mktemp("shared"), stack)


@pytest.fixture
def etcd(shared_etcd: SharedClusters) -> EtcdCluster:
    """etcd 3.5, one member, empty, shared: don't stop it for good, don't fill it up."""
    return shared_etcd.empty(EtcdOptions())


@pytest.fixture(params=EtcdVersion, ids=lambda version: f"etcd-{version.value}")
def etcd_any(request: pytest.FixtureRequest, shared_etcd: SharedClusters) -> EtcdCluster:
    """As `etcd`, the test runs once with each version."""
    return shared_etcd.empty(EtcdOptions(version=request.param))


@pytest.fixture
def etcd_tls(shared_etcd: SharedClusters) -> EtcdCluster:
    """As `etcd`, with TLS, and client certificates required."""
    return shared_etcd.empty(EtcdOptions(tls=True))


@pytest.fixture
def etcd_auth(shared_etcd: SharedClusters) -> EtcdCluster:
    """As `etcd`, with users."""
    return shared_etcd.empty(EtcdOptions(auth=True))


@pytest.fixture
def new_etcd(tmp_path: Path) -> Iterator[Callable[[EtcdOptions], EtcdCluster]]:
    """Starts clusters that belong to one test, which may do to them what it likes."""
    with ExitStack() as stack:

        def start(options: EtcdOptions) -> EtcdCluster:
            require(options.version)
            directory = tmp_path / f"etcd-{len(list(tmp_path.glob('etcd-*')))}"
            directory.mkdir()
            return stack.enter_context(start_etcd(directory, options))

        yield start


@pytest.fixture
def etcd_three(new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> EtcdCluster:
    """etcd 3.5, three members, this test's own."""
    return new_etcd(EtcdOptions(members=3))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis"), RedisOptions()) as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """Redis 6.2, empty, shared: don't change its settings."""
    shared_redis.reset()
    return shared_redis


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[Callable[[RedisOptions], RedisServer]]:
    """Starts Redis that belongs to one test, which may do to it what it likes."""
    with ExitStack() as stack:

        def start(options: RedisOptions) -> RedisServer:
            directory = tmp_path / f"redis-{len(list(tmp_path.glob('redis-*')))}"
            directory.mkdir()
            return stack.enter_context(start_redis(directory, options))

        yield start
