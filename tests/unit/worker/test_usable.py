"""Whether the configuration file can be used, looked at again and again: what is said, how often, and the way back."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from threading import Thread

import pytest
from structlog.testing import capture_logs

from kube_rewrap.cli.demo.registry import configuration_of, make_key
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.worker.usable import Usable

UNUSABLE = "the configuration file can't be used; the log says configuration.unusable"
KEY = make_key(ProviderType.AESGCM, "key")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "encryption.json"
    path.touch(mode=0o600)
    path.write_text(configuration_of([KEY], ["secrets"]))
    return path


def usable(file: Path) -> Usable:
    return Usable(str(file), Layout("/registry", ()), allow_readable=False)


def test_before_the_first_look_nothing_is_known(file: Path) -> None:
    one = usable(file)
    assert one.trouble == "the configuration file was not read yet"
    with capture_logs() as logs:
        one.check()
    assert one.trouble == ""
    assert logs == []


def give_away(file: Path) -> None:
    os.chown(file, 4711, -1)


@pytest.mark.parametrize(
    ("harm", "because"),
    [
        pytest.param(Path.unlink, "it can't be read: No such file or directory", id="missing"),
        pytest.param(lambda file: file.chmod(0o644), "its mode 0644 gives group or others access", id="for others"),
        pytest.param(lambda file: file.write_text("kind: Secret"), "kind", id="invalid"),
        pytest.param(
            lambda file: file.write_text(configuration_of([KEY], ["deployments"])),
            "no name in the configuration governs anything: deployments",
            id="idle",
        ),
        pytest.param(
            give_away,
            "another user",
            id="another user's",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away"),
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_so_is_the_way_back(file: Path, harm: object, because: str) -> None:
    one = usable(file)
    good = file.read_text()
    assert callable(harm)
    with capture_logs() as logs:
        one.check()
        harm(file)
        for _ in range(3):
            one.check()
        assert one.trouble == UNUSABLE
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(good)
        for _ in range(3):
            one.check()
        assert one.trouble == ""
    assert [line["event"] for line in logs] == ["configuration.unusable", "configuration.usable"]
    assert because in logs[0]["because"]
    assert KEY.keys[0].secret.reveal().hex() not in repr(logs)


def test_another_reason_is_said_anew(file: Path) -> None:
    one = usable(file)
    with capture_logs() as logs:
        file.chmod(0o644)
        one.check()
        file.unlink()
        one.check()
    assert [line["event"] for line in logs] == ["configuration.unusable"] * 2


def test_looks_at_the_same_time_say_a_fault_once(file: Path) -> None:
    """The second look begins while the first one logs."""
    file.chmod(0o644)
    one = usable(file)
    second = Thread(target=one.check)

    def begin_second(_logger: object, _method: str, line: MutableMapping[str, object]) -> MutableMapping[str, object]:
        if second.ident is None:
            second.start()
            second.join(0.2)  # it ends only where nothing holds it back
        return line

    with capture_logs(processors=[begin_second]) as logs:
        one.check()
        second.join()
    assert [line["event"] for line in logs] == ["configuration.unusable"]
