"""The configuration's file as editors, kubelet and careless writers change it. Real files, real notices.

Where a change must be felt and not found by polling, the poll is an hour away.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.settings.schema import ServiceSettings
from kube_rewrap.scheduler.configuration import watcher as watch
from kube_rewrap.scheduler.configuration.watcher import ConfigurationWatch

pytestmark = pytest.mark.timeout(120)

BOUND = 40.0
NEVER = 3600.0

FELT = ServiceSettings(poll=NEVER, debounce=0.05)
POLLED = ServiceSettings(poll=0.05, debounce=0.02)


def text(name: str) -> bytes:
    secret = base64.b64encode(f"canary-{name}".encode().ljust(32, b".")).decode()
    return (
        "apiVersion: apiserver.config.k8s.io/v1\n"
        "kind: EncryptionConfiguration\n"
        "resources:\n"
        "- resources: [secrets]\n"
        "  providers:\n"
        f"  - aescbc: {{keys: [{{name: {name}, secret: {secret}}}]}}\n"
        "  - identity: {}\n"
    ).encode()


ONE, TWO, THREE = text("one"), text("two"), text("three")
BAD = ONE.replace(b"identity: {}", b"identity: {extra: 1}").replace(b"[secrets]", b"[Secrets]")


def put(path: Path, raw: bytes) -> None:
    """Write a file as a careful writer does: elsewhere, and renamed into place."""
    made = path.with_name(path.name + ".new")
    made.write_bytes(raw)
    made.chmod(0o600)
    made.rename(path)


def edit(path: Path, raw: bytes) -> None:
    """Write over a file in place; its mode stays."""
    with path.open("wb") as stream:
        stream.write(raw)


def remove(path: Path) -> None:
    path.unlink()


def allow(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as events:
        yield events


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read so far: how often somebody looked."""
    counted: list[int] = []

    def count(file: str, *, allow_readable: bool) -> bytes:
        counted.append(0)
        raw = read(file, allow_readable=allow_readable)
        counted[-1] = len(raw)
        return raw

    monkeypatch.setattr(watch, "read", count)
    return counted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "encryption.yaml"
    put(path, ONE)
    return path


class Seen:
    """What a watch yielded so far, by hash."""

    def __init__(self) -> None:
        self.hashes: list[str] = []
        self._more = asyncio.Event()

    def add(self, content: str) -> None:
        self.hashes.append(content)
        self._more.set()

    async def until(self, *contents: bytes) -> None:
        """Return once exactly these were yielded, in their order."""
        wanted = [content_hash(raw) for raw in contents]
        async with asyncio.timeout(BOUND):
            while len(self.hashes) < len(wanted):
                self._more.clear()
                await self._more.wait()
        assert self.hashes == wanted


@asynccontextmanager
async def watching(file: Path, settings: ServiceSettings) -> AsyncIterator[Seen]:
    """A watch at work in a task of its own, cancelled at the end; it leaves nothing behind."""
    seen = Seen()

    async def follow() -> None:
        async for generation in ConfigurationWatch(str(file), settings, Layout()).generations():
            assert generation.file == str(file)
            seen.add(generation.hash)

    others = asyncio.all_tasks()
    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        async with asyncio.timeout(BOUND):
            await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.all_tasks() == others


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110 - files and logs have no event to wait for
            await asyncio.sleep(0.01)


def told(logs: list[EventDict], event: str) -> list[EventDict]:
    return [line for line in logs if line["event"] == f"configuration.{event}"]


# -------------------------------------------------------------------------------------------------- ways to write it


async def test_the_first_good_file_comes_first(file: Path, logs: list[EventDict]) -> None:
    async with watching(file, FELT) as seen:
        await seen.until(ONE)
    assert logs == [
        {
            "event": "configuration.accepted",
            "log_level": "info",
            "file": str(file),
            "file_hash": content_hash(ONE),
            "because": "it is new",
        }
    ]


@pytest.mark.parametrize("settings", [FELT, POLLED], ids=["felt", "polled"])
@pytest.mark.parametrize("write", [put, edit], ids=["atomic rename", "in-place edit"])
async def test_a_change_is_seen(
    file: Path, write: Callable[[Path, bytes], None], settings: ServiceSettings, logs: list[EventDict]
) -> None:
    async with watching(file, settings) as seen:
        await seen.until(ONE)
        write(file, TWO)
        await seen.until(ONE, TWO)
        write(file, THREE)
        await seen.until(ONE, TWO, THREE)
        write(file, ONE)
        await seen.until(ONE, TWO, THREE, ONE)
    assert [line["file_hash"] for line in told(logs, "accepted")] == seen.hashes


class Volume:
    """A mounted volume as kubelet writes it (pkg/volume/util/atomic_writer.go): `..data` leads to what is in force."""

    def __init__(self, directory: Path, raw: bytes) -> None:
        self.directory = directory
        self.file = directory / "encryption.yaml"
        directory.mkdir(exist_ok=True)
        self.swap(raw)
        self.file.symlink_to("..data/encryption.yaml")

    def swap(self, raw: bytes) -> None:
        data = self.directory / "..data"
        old = data.resolve() if data.is_symlink() else None
        new = self.directory / f"..{content_hash(raw)[-8:]}"
        new.mkdir()
        (new / "encryption.yaml").write_bytes(raw)
        (new / "encryption.yaml").chmod(0o600)
        made = self.directory / "..data_tmp"
        made.symlink_to(new.name)
        made.rename(data)
        if old is not None:
            shutil.rmtree(old)


async def test_kubelets_swap_of_a_mounted_volume_is_felt_each_time(tmp_path: Path, logs: list[EventDict]) -> None:
    volume = Volume(tmp_path / "volume", ONE)
    async with watching(volume.file, FELT) as seen:
        await seen.until(ONE)
        for number, raw in enumerate((TWO, THREE, ONE, TWO)):
            volume.swap(raw)
            await seen.until(*(ONE, TWO, THREE, ONE, TWO)[: number + 2])
    assert told(logs, "rejected") == []


async def test_a_file_in_a_swapped_volume_can_still_be_edited_in_place(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", ONE)
    async with watching(volume.file, FELT) as seen:
        await seen.until(ONE)
        volume.swap(TWO)
        await seen.until(ONE, TWO)
        edit(volume.file, THREE)
        await seen.until(ONE, TWO, THREE)


async def test_a_link_to_elsewhere_is_followed_through_every_directory_on_the_way(tmp_path: Path) -> None:
    """name -> releases/current/encryption.yaml, and `current` -> a release: each may change by itself."""
    releases = tmp_path / "releases"
    for name, raw in (("first", ONE), ("second", TWO)):
        (releases / name).mkdir(parents=True)
        put(releases / name / "encryption.yaml", raw)
    (releases / "current").symlink_to("first")
    home = tmp_path / "home"
    home.mkdir()
    file = home / "encryption.yaml"
    file.symlink_to(releases / "current" / "encryption.yaml")
    async with watching(file, FELT) as seen:
        await seen.until(ONE)
        (releases / "next").symlink_to("second")
        (releases / "next").rename(releases / "current")
        await seen.until(ONE, TWO)
        put(releases / "second" / "encryption.yaml", THREE)
        await seen.until(ONE, TWO, THREE)
        put(file, ONE)
        await seen.until(ONE, TWO, THREE, ONE)


async def test_links_in_a_circle_are_an_error_and_no_endless_loop(tmp_path: Path, logs: list[EventDict]) -> None:
    file = tmp_path / "encryption.yaml"
    file.symlink_to(f"../{tmp_path.name}/encryption.yaml")
    async with watching(file, FELT) as seen:
        await until(lambda: bool(told(logs, "rejected")))
        put(file, ONE)
        await seen.until(ONE)
    (rejected,) = told(logs, "rejected")
    assert rejected["errors"][0]["message"] == "it can't be read: Too many levels of symbolic links"


async def test_a_writer_in_pieces_is_waited_for(file: Path, logs: list[EventDict]) -> None:
    """Pieces closer together than the debounce: none of them is ever judged."""
    settings = ServiceSettings(poll=0.01, debounce=1.0)
    async with watching(file, settings) as seen:
        await seen.until(ONE)
        with file.open("wb") as stream:
            for line in TWO.splitlines(keepends=True):
                stream.write(line)
                stream.flush()
                await asyncio.sleep(0.05)
        await seen.until(ONE, TWO)
    assert told(logs, "rejected") == []


async def test_a_touch_or_the_same_bytes_again_are_no_new_generation(file: Path, logs: list[EventDict]) -> None:
    async with watching(file, FELT) as seen:
        await seen.until(ONE)
        os.utime(file)
        put(file, ONE)
        edit(file, ONE)
        put(file, TWO)
        await seen.until(ONE, TWO)
    assert [line["file_hash"] for line in told(logs, "accepted")] == seen.hashes


# ---------------------------------------------------------------------------------------------- what can't be in force


async def test_a_bad_file_is_told_once_with_all_its_faults_and_changes_nothing(
    file: Path, logs: list[EventDict], reads: list[int]
) -> None:
    async with watching(file, POLLED) as seen:
        await seen.until(ONE)
        put(file, BAD)
        await until(lambda: len(told(logs, "rejected")) == 1)
        before = len(reads)
        await until(lambda: len(reads) > before + 5)
        assert len(told(logs, "rejected")) == 1
        put(file, BAD + b"# no better\n")
        await until(lambda: len(told(logs, "rejected")) == 2)
        put(file, TWO)
        await seen.until(ONE, TWO)
    assert told(logs, "rejected")[0] == {
        "event": "configuration.rejected",
        "log_level": "error",
        "file": str(file),
        "file_hash": content_hash(ONE),
        "errors": [
            {
                "path": "resources[0].resources[0]",
                "message": "a resource name has no capital letters",
                "remedy": "write it in lower case",
            },
            {
                "path": "resources[0].providers[1].identity.extra",
                "message": "unknown field",
                "remedy": "remove it; no field is known here",
            },
        ],
        "because": "the last good one stays in force",
    }
    assert [line["event"] for line in logs] == [
        "configuration.accepted",
        "configuration.rejected",
        "configuration.rejected",
        "configuration.accepted",
    ]
    assert "canary" not in str(logs)
    assert base64.b64encode(b"canary")[:6].decode() not in str(logs)


async def test_a_file_that_governs_nothing_changes_nothing(file: Path, logs: list[EventDict]) -> None:
    """As a worker, and a scheduler that does not lead, judges it."""
    async with watching(file, FELT) as seen:
        await seen.until(ONE)
        put(file, ONE.replace(b"secrets", b"deployments"))
        await until(lambda: len(told(logs, "rejected")) == 1)
        put(file, TWO)
        await seen.until(ONE, TWO)
    [error] = told(logs, "rejected")[0]["errors"]
    assert error["message"].startswith("no name in the configuration governs anything: deployments")


async def test_back_to_what_is_in_force_is_told_and_is_no_new_generation(file: Path, logs: list[EventDict]) -> None:
    async with watching(file, FELT) as seen:
        await seen.until(ONE)
        put(file, b"kind: nonsense\n")
        await until(lambda: len(told(logs, "rejected")) == 1)
        put(file, ONE)
        await until(lambda: len(told(logs, "accepted")) == 2)
        put(file, TWO)
        await seen.until(ONE, TWO)
    assert [line["because"] for line in told(logs, "accepted")] == [
        "it is new",
        "the file has the content in force again",
        "it is new",
    ]


@pytest.mark.parametrize("settings", [FELT, POLLED], ids=["felt", "polled"])
async def test_a_file_that_is_removed_and_comes_back(
    file: Path, settings: ServiceSettings, logs: list[EventDict]
) -> None:
    async with watching(file, settings) as seen:
        await seen.until(ONE)
        remove(file)
        await until(lambda: len(told(logs, "rejected")) == 1)
        put(file, TWO)
        await seen.until(ONE, TWO)
    (rejected,) = told(logs, "rejected")
    assert rejected["errors"] == [
        {
            "path": "",
            "message": "it can't be read: No such file or directory",
            "remedy": "check the path and the permissions of its directories",
        }
    ]


@pytest.mark.parametrize("settings", [FELT, POLLED], ids=["felt", "polled"])
async def test_permissions_that_are_too_open_are_told_and_mended(
    file: Path, settings: ServiceSettings, logs: list[EventDict]
) -> None:
    async with watching(file, settings) as seen:
        await seen.until(ONE)
        allow(file, 0o644)
        await until(lambda: len(told(logs, "rejected")) == 1)
        allow(file, 0o600)
        await until(lambda: len(told(logs, "accepted")) == 2)
        assert seen.hashes == [content_hash(ONE)]
    (rejected,) = told(logs, "rejected")
    assert rejected["errors"][0]["remedy"] == f"run: chmod 600 {file}"


async def test_open_permissions_may_be_allowed(file: Path) -> None:
    allow(file, 0o644)
    stream = ConfigurationWatch(str(file), FELT, Layout(), allow_readable=True).generations()
    async with asyncio.timeout(BOUND):
        assert (await anext(stream)).hash == content_hash(ONE)
        await stream.aclose()


async def test_without_a_good_file_nothing_is_yielded_and_that_is_said(file: Path, logs: list[EventDict]) -> None:
    put(file, b"")
    async with watching(file, FELT) as seen:
        await until(lambda: len(told(logs, "rejected")) == 1)
        assert seen.hashes == []
        put(file, ONE)
        await seen.until(ONE)
    (rejected,) = told(logs, "rejected")
    assert (rejected["file_hash"], rejected["because"]) == (None, "there was no good one so far")


async def test_a_file_that_never_stands_still_is_told_once(
    file: Path, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    monkeypatch.setattr(watch, "_MOST_READS", 3)
    counted = watch.read  # type: ignore[attr-defined]
    restless = True

    def written_meanwhile(path: str, *, allow_readable: bool) -> bytes:
        raw = counted(path, allow_readable=allow_readable)
        return raw + b"# %d\n" % len(reads) if restless else raw

    monkeypatch.setattr(watch, "read", written_meanwhile)
    async with watching(file, POLLED) as seen:
        await until(lambda: len(reads) > 20)
        restless = False
        await seen.until(ONE)
    (rejected,) = told(logs, "rejected")
    assert rejected["errors"] == [
        {"path": "", "message": "it keeps changing", "remedy": "write another file and rename it to this name"}
    ]


# ---------------------------------------------------------------------------------------- where nothing can be watched


async def test_a_directory_that_comes_later_and_is_made_anew(tmp_path: Path, logs: list[EventDict]) -> None:
    file = tmp_path / "later" / "encryption.yaml"
    async with watching(file, POLLED) as seen:
        await until(lambda: bool(told(logs, "unwatched")) and bool(told(logs, "rejected")))
        file.parent.mkdir()
        put(file, ONE)
        await seen.until(ONE)
        shutil.rmtree(file.parent)
        await until(lambda: len(told(logs, "rejected")) == 2)
        file.parent.mkdir()
        put(file, TWO)
        await seen.until(ONE, TWO)
    for line in told(logs, "unwatched"):
        assert line["because"] == "FileNotFoundError (No such file or directory)"
        assert line["file"] == str(file)


async def test_without_inotify_the_file_is_polled_and_that_is_said_once(
    file: Path, logs: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise OSError(24, "inotify instances are used up")

    monkeypatch.setattr(watch, "awatch", refuse)
    async with watching(file, POLLED) as seen:
        await seen.until(ONE)
        put(file, TWO)
        await seen.until(ONE, TWO)
        put(file, THREE)
        await seen.until(ONE, TWO, THREE)
    assert [line["because"] for line in told(logs, "unwatched")] == ["OSError (Too many open files)"]


# ----------------------------------------------------------------------------------------------------------------- end


@pytest.mark.parametrize("settings", [FELT, POLLED], ids=["an hour's poll", "a short poll"])
async def test_closing_it_ends_the_watch_too(file: Path, settings: ServiceSettings) -> None:
    others = asyncio.all_tasks()
    stream = ConfigurationWatch(str(file), settings, Layout()).generations()
    async with asyncio.timeout(BOUND):
        assert (await anext(stream)).hash == content_hash(ONE)
        await stream.aclose()
    assert asyncio.all_tasks() == others


async def test_it_can_be_cancelled_at_any_moment(file: Path, logs: list[EventDict]) -> None:
    """`watching` looks after each round that the task was cancelled and that no other is left."""
    for round_ in range(30):
        async with watching(file, POLLED):
            put(file, (ONE, TWO, BAD)[round_ % 3])
            for _ in range(round_):
                await asyncio.sleep(0.003)
    assert told(logs, "unwatched") == []
