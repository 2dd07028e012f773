"""`rotate --manual`: the operator puts each content in place, and the command never touches the file."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.control_plane import ControlPlane, control_plane, keys_of
from tests.acceptance.rotate.running import end_well
from tests.acceptance.rotate.texts import OLD, mode, odd, plain
from tests.servers.etcd import EtcdCluster


def test_by_hand_the_operator_puts_every_content_in_place_and_the_tool_never_touches_the_file(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    given = tmp_path / "given.yaml"
    with control_plane(etcd, tmp_path, odd(OLD)) as plane:
        contents = [plane.text]
        with plane.rewrap.start("rotate", "--prune", "--manual", "--write-to", str(given)) as running:
            for step in ("add", "promote", "prune"):
                contents.append(copy_into_place(plane, given, step, contents[-1]))
            end_well(running)
        new = plane.new_key()
        assert contents == [odd(OLD), odd(OLD, new), odd(new, OLD), odd(new)]
        assert plane.text == contents[-1]
        assert mode(given) == 0o600
        assert plane.archived == []
        plane.assert_all_is_under(new)


def copy_into_place(plane: ControlPlane, given: Path, step: str, before: str) -> str:
    """Plays the operator at one step; returns the content that is in place now."""
    content = plane.wait_until_handed_out(given, step)
    assert plane.text == before
    plane.put(content)
    return content


MARK = re.compile(rb"----- BEGIN (sha256:[0-9a-f]{64}) for the step add: ([0-9]+) bytes on stdout(.*) -----\n")


def test_what_an_operator_shall_do_comes_through_a_pipe_before_it_waits_for_it(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    """What is written to a pipe may rest in a buffer until the command ends: here it ends only when it is killed."""
    given = tmp_path / "given.yaml"
    with control_plane(etcd, tmp_path, odd(OLD).removesuffix("\n")) as plane:
        with by_hand(plane, "start", "--yes", "--write-to", str(given)) as process:
            assert process.stdout is not None
            wanted = f"add      waits for you: replace {plane.file} with the content of {given}, on every"
            assert any(line.startswith(wanted.encode()) for line in process.stdout)
            assert process.poll() is None
        assert keys_of(given.read_text())[0] == OLD
        # Without --write-to, the file is all that is on stdout; the marks and the words are on stderr.
        with by_hand(plane, "resume") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            said = iter(process.stderr)
            assert b"Discard the file content" in next(line for line in said if not line.startswith(b"{"))
            mark = next(found for line in said if (found := MARK.fullmatch(line)))
            content = process.stdout.read(int(mark[2]))
            assert f"sha256:{hashlib.sha256(content).hexdigest()}".encode() == mark[1]
            assert mark[3] == b", no newline at its end"
            assert next(said) == b"----- END %s for the step add -----\n" % mark[1]
            wanted = f"add      waits for you: replace {plane.file} with the content of stdout, on every"
            assert next(said).startswith(wanted.encode())
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == b""
        assert plane.text == odd(OLD).removesuffix("\n")
        assert (plane.rotation()["edited"], plane.archived) == (mark[1].decode(), [])


@contextmanager
def by_hand(plane: ControlPlane, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        plane.rewrap.line("rotate", *words, *(() if "resume" in words else ("--manual",))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(plane.rewrap.environment or {}), "PYTHONUNBUFFERED": ""},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_by_hand_words_and_the_file_are_kept_apart_whatever_is_asked(etcd: EtcdCluster, tmp_path: Path) -> None:
    given = tmp_path / "given.yaml"
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        for words, said in (
            (("start", "--manual", "-o", "json"), "--write-to: is missing: JSON output is one document"),
            (("start", "--manual", "--write-to", str(plane.file)), "--write-to: is the configuration itself"),
        ):
            refused = plane.rewrap.run("rotate", *words)
            assert (refused.code, plane.rotations()) == (2, [])
            assert said in refused.stdout + refused.stderr
        nowhere = plane.rewrap.run("rotate", "--manual", "--write-to", str(tmp_path / "no" / "given.yaml"))
        assert nowhere.code == 2
        assert "can't be written: No such file or directory" in nowhere.stderr
        refused = plane.rewrap.run("rotate", "resume", "-o", "json")
        assert refused.code == 2
        assert "--write-to: is missing" in refused.error["message"]
        with plane.rewrap.start("rotate", "resume", "-o", "json", "--write-to", str(given)) as running:
            # What is waited for is said beside the one document, after the file is written.
            wanted = f"add      waits for you: replace {plane.file} with the content of {given}"
            running.wait_for_words(wanted)
            running.send(signal.SIGTERM)
            ended = running.end()
        assert ended.error["code"] == 3
        assert wanted in ended.stderr
        assert given.exists()
