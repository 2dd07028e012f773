"""Before a rotation begins: refusals, the plan, and the question on a terminal. Nothing is written by then."""

from __future__ import annotations

import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.control_plane import ControlPlane, control_plane, hash_of
from tests.acceptance.rotate.texts import OLD, plain
from tests.servers.etcd import EtcdCluster


def test_what_can_be_known_before_is_asked_before_and_nothing_is_written(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        plane.file.with_name("twin").hardlink_to(plane.file)
        bare = plane.listing().with_flags("--gcm-limit", "5", "--quota-bytes", "1")
        ended = bare.run("rotate", "--provider", "aesgcm", "--yes")
        assert ended.code == 4, ended.stdout
        for reason in (
            "no address of a kube-apiserver is given",
            "has a second name (a hard link)",
            "20 objects are to be encrypted with the new aesgcm key, which may encrypt 5 times",
            "etcd would hold",
        ):
            assert reason in ended.stderr
        assert bare.run("rotate", "--dry-run").code == 4
        assert_nothing_is_written(plane)


def assert_nothing_is_written(plane: ControlPlane) -> None:
    assert plane.gateway.read("/kube-rewrap/") == []
    assert plane.text == plain(OLD)
    assert not plane.archive.exists()


def test_a_plan_is_shown_and_nothing_is_written(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        shown = plane.rewrap.run("rotate", "--dry-run", "--prune")
        assert shown.code == 0, shown.stderr
        old = f"Old keys:   aescbc:old ({OLD.fingerprint}); removed at the end, and kept in the archive"
        assert [words for words in (old, "20 to rewrite", "WHAT HAPPENS") if words not in shown.stdout] == []
        plan = plane.rewrap.json("rotate", "--dry-run", "--prune")
        assert (plan["dry_run"], plan["objects"], plan["refusals"]) == (True, 20, [])
        assert [one["state"] for one in plan["apiservers"]] == ["converged"] * 3
        assert plan["prunes"] == [f"aescbc:old ({OLD.fingerprint})"]
        assert plan["rotation"]["file"] == hash_of(plain(OLD))
        assert [one["step"] for one in plan["steps"]][-2:] == ["prune", "converge"]
        assert_nothing_is_written(plane)


def test_where_nobody_can_be_asked_it_takes_a_word(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        for words in ((), ("-o", "json")):
            ended = plane.rewrap.with_environment(REWRAP_YES="").run("rotate", *words)
            assert ended.code == 2
            wanted = "give --yes to begin without asking for consent, or --dry-run to see the plan"
            assert wanted in ended.stdout + ended.stderr
        assert_nothing_is_written(plane)


@pytest.mark.parametrize("answer", ["n\n", pytest.param("\x04", marks=pytest.mark.chaos)])
def test_on_a_terminal_it_asks_and_takes_nothing_but_a_yes_for_one(
    etcd: EtcdCluster, tmp_path: Path, answer: str
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        code, shown = on_a_terminal(plane, answer)
        assert code == 4
        assert "not begun; nothing was written" in shown
        assert_nothing_is_written(plane)


@pytest.mark.chaos
def test_a_yes_on_a_terminal_begins_it(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        code, shown = on_a_terminal(plane, "y\n")
        assert code == 0, shown
        plane.assert_all_is_under(plane.new_key())


def on_a_terminal(plane: ControlPlane, answer: str) -> tuple[int, str]:
    """Runs `rewrap rotate`, and answers its question; returns its end, and what the terminal showed."""
    ours, theirs = pty.openpty()
    rewrap = plane.rewrap.with_environment(REWRAP_YES="")
    process = subprocess.Popen(
        rewrap.line("rotate"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **(rewrap.environment or {})},
    )
    os.close(theirs)
    shown, is_answered = b"", False
    with suppress(OSError):  # how a terminal ends
        while part := os.read(ours, 4_096):
            shown += part
            if b"Begin? [y/N]" in shown and not is_answered:
                os.write(ours, answer.encode())
                is_answered = True
    os.close(ours)
    assert is_answered, shown
    return process.wait(60), shown.decode()
