"""`rewrap rotate` beside three stand-ins for kube-apiservers, which read and write all the while."""

from __future__ import annotations

import base64
import hashlib
import os
import pty
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Running
from tests.acceptance.control_plane import ControlPlane, control_plane, hash_of, keys_of, wait
from tests.integration.apiserver import IDENTITY, Key, configuration, write_private
from tests.servers.apiserver import StandIn, Temper, compacting
from tests.servers.etcd import EtcdCluster, EtcdOptions

OLD = Key.new("aescbc", "old")

ODD = """\
# Encryption of the control plane. Ask the platform team before you touch it.
apiVersion: apiserver.config.k8s.io/v1
kind:   EncryptionConfiguration   # the spacing is odd, and stays

resources:
    - resources: [ "secrets" ]     # what matters
      providers:
          - aescbc:
              keys:
{block}

          - identity: {{}}    # for what was never rewritten
    # config maps are few
    - providers:
      - aescbc: {{keys: [{flow}]}}
      resources:
      - configmaps
# the end
"""


def odd(*keys: Key) -> str:
    """The odd file, with the old key and the new one in some order."""
    block = "\n".join(OLD_LINES if key == OLD else new_lines(key) for key in keys)
    flow = ", ".join(f"{{name: {key.name}, secret: {secret(key)}}}" for key in keys)
    return ODD.format(block=block, flow=flow)


def secret(key: Key) -> str:
    return base64.b64encode(key.material).decode()


def new_lines(key: Key) -> str:
    return f"                  - name: {key.name}\n                    secret: {secret(key)}"


OLD_LINES = (
    "                  # made by hand in spring\n"
    f'                  - name: "old"\n                    secret: {secret(OLD)}   # 32 bytes'
)


def plain(*keys: Key) -> str:
    return configuration((["secrets"], keys))


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def wait_for(plane: ControlPlane, because: str, apiserver: StandIn) -> dict[str, Any]:
    """Returns the record once it waits for this stand-in, for this reason."""
    begins = f"{apiserver.url} {because}" if because.startswith("runs") else f"{apiserver.url}: {because}"
    wait(lambda: any(begins in one["waits"] for one in plane.rotations()), f"wait that begins with {begins!r}")
    return plane.rotation()


def end_well(running: Running) -> str:
    """Returns what it printed."""
    ended = running.end()
    assert ended.code == 0, f"{ended.code}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture
def etcd(new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> EtcdCluster:
    """This test's own: the stand-ins read its history."""
    return new_etcd(EtcdOptions())


# ------------------------------------------------------------------------------------------------------ a whole one


def test_a_rotation_goes_its_way_while_one_lags_one_fails_to_reload_and_one_is_down(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    tempers = [Temper(poll=0.1, seed=1), Temper(poll=0.1, lag=0.5, seed=2), Temper(poll=0.1, seed=3)]
    with control_plane(etcd, tmp_path, odd(OLD), tempers=tempers, objects=60, compacted_every=1.0) as plane:
        failing, _, down = plane.apiservers
        failing.refuse_to_reload(refuses=True)
        with plane.rewrap.start("rotate", "--prune") as running:
            found = wait_for(plane, f"runs {hash_of(odd(OLD))}, and failed to load its file", failing)
            down.go_down()
            failing.refuse_to_reload(refuses=False)
            found = wait_for(plane, "can't be reached", down)
            new = plane.new_key()
            # As long as one of them may not know the new key, nothing is written with it.
            assert (found["step"], plane.text) == ("spread", odd(OLD, new))
            assert plane.registry.encryptions[new.fingerprint] == 0
            down.come_back()
            end_well(running)
        plane.assert_all_is_under(new)
        plane.assert_no_key_is_lost()
        assert plane.text == odd(new)
        assert mode(plane.file) == 0o600
        assert sorted(plane.archived) == sorted([odd(OLD), odd(OLD, new), odd(new, OLD)])
        assert {mode(one) for one in plane.archive.iterdir()} == {0o600}
        assert mode(plane.archive) == 0o700


def test_the_first_encryption_ends_with_no_object_in_plaintext(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(IDENTITY)) as plane:
        end_well(plane.rewrap.start("rotate", "--provider", "aesgcm", "--prune"))
        new = plane.new_key()
        assert new.provider == "aesgcm"
        assert keys_of(plane.text) == [new]
        plane.assert_all_is_under(new)
        assert plain(IDENTITY) in plane.archived


def test_from_aescbc_to_secretbox_the_old_provider_goes_with_its_key(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        end_well(plane.rewrap.start("rotate", "--provider", "secretbox", "--prune"))
        new = plane.new_key()
        assert new.provider == "secretbox"
        assert keys_of(plane.text) == [new]
        plane.assert_all_is_under(new)
        plane.assert_no_key_is_lost()


# --------------------------------------------------------------------------------------------- what keeps it waiting


def test_a_kube_apiserver_that_nobody_listed_blocks_until_its_address_is_given(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        *listed, forgotten = plane.apiservers
        lease = f"{forgotten.name} on {forgotten.name} has a live lease, and no address answered for it"
        refused = plane.listing(*listed).run("rotate", "--prune")
        assert refused.code == 4
        assert lease in refused.stdout
        assert (plane.rotations(), plane.text) == ([], plain(OLD))
        stop_at_spread(plane, "--prune")
        with plane.listing(*listed).start("rotate", "resume") as running:
            # Only for it, once the listed ones have loaded the file: until then its words end in "and 1 more".
            wait(
                lambda: any(one["waits"].startswith(lease) and "more" not in one["waits"] for one in plane.rotations()),
                "wait for the forgotten one alone",
            )
            assert plane.rotation()["step"] == "spread"
            running.send(signal.SIGTERM)
            stopped = running.end()
        assert stopped.code == 3
        assert lease in stopped.stdout
        assert keys_of(plane.text) == [OLD, plane.new_key()]
        end_well(plane.rewrap.start("rotate", "resume"))
        assert keys_of(plane.text) == [plane.new_key()]
        plane.assert_all_is_under(plane.new_key())


def test_a_kube_apiserver_that_went_back_to_the_old_file_after_the_proof_keeps_the_old_key_in_the_file(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    """Between the proof and etcd's next compaction there are minutes, in which a node may get its old file back."""
    with control_plane(etcd, tmp_path, plain(OLD), compacted_every=3_600) as plane:
        back = plane.apiservers[-1]
        with plane.rewrap.start("rotate", "--prune") as running:
            plane.wait_until_at("compact")
            new = plane.new_key()
            back.use(write_private(tmp_path / "of-this-node.json", plain(OLD, new)))
            before = plane.registry.encryptions[OLD.fingerprint]
            wait(lambda: plane.registry.encryptions[OLD.fingerprint] > before, "write under the old key")
            plane.gateway.compact(plane.gateway.revision())
            wait(lambda: running.is_over or back.url in plane.rotation()["waits"], "wait for the one that went back")
            assert plane.registry.unreadable == []
            assert keys_of(plane.text) == [new, OLD]
            back.use(plane.file)
            with compacting(plane.gateway, 0.2):
                end_well(running)
            plane.assert_all_is_under(new)
            assert keys_of(plane.text) == [new]


def stop_at_spread(plane: ControlPlane, *words: str) -> None:
    """Begins a rotation, and stops it when the new key is in the file, to read with."""
    plane.apiservers[0].refuse_to_reload(refuses=True)
    with plane.rewrap.start("rotate", *words) as running:
        plane.wait_until_at("spread")
        running.send(signal.SIGTERM)
        assert running.end().code == 3
    plane.apiservers[0].refuse_to_reload(refuses=False)


# --------------------------------------------------------------------------------------------- before it begins


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
        assert [one["step"] for one in plan["steps"]][-2:] == ["prune", "settle"]
        assert_nothing_is_written(plane)


def test_where_nobody_can_be_asked_it_takes_a_word(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        for words in ((), ("-o", "json")):
            ended = plane.rewrap.with_environment(REWRAP_YES="").run("rotate", *words)
            assert ended.code == 2
            assert "say --yes to begin without a question, or --dry-run to see the plan" in ended.stdout + ended.stderr
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


# ------------------------------------------------------------------------------------------------- an edit by hand


def test_a_file_edited_by_hand_holds_the_rotation_until_it_is_put_back(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, odd(OLD)) as plane:
        expected, _ = stop_by_an_edit(plane)
        plane.put(expected)
        said = end_well(plane.rewrap.start("rotate", "resume"))
        assert f"nothing in this cluster is under aescbc:old ({OLD.fingerprint}) any more: it may be removed" in said
        new = plane.new_key()
        assert plane.text == odd(new, OLD)
        plane.assert_all_is_under(new)


@pytest.mark.chaos
def test_an_aborted_rotation_leaves_the_file_as_it_is(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, odd(OLD)) as plane:
        _, edited = stop_by_an_edit(plane)
        assert plane.rewrap.run("rotate", "abort").code == 0
        assert plane.text == edited
        found = plane.rewrap.json("rotate", "status")
        assert (found["step"], found["held"]) == ("aborted", "")
        resumed = plane.rewrap.run("rotate", "resume")
        assert resumed.code == 4
        assert "no rotation is under way" in resumed.stderr
        assert plane.registry.unreadable == []


def test_an_unused_key_goes_again_once_all_run_the_file_in_which_it_only_reads(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    with control_plane(etcd, tmp_path, odd(OLD)) as plane:
        stop_at_spread(plane)
        lagging = plane.apiservers[0]
        lagging.refuse_to_reload(refuses=True)
        new = plane.new_key()
        with plane.rewrap.start("rotate", "abort", "--remove-unused") as running:
            found = plane.wait_until_at("withdraw")
            assert lagging.url in found["waits"]
            assert plane.text == odd(OLD, new)
            lagging.refuse_to_reload(refuses=False)
            said = end_well(running)
        assert "the unused key is gone from the file, and all kube-apiservers (3) run" in said
        assert plane.text == odd(OLD)
        assert odd(OLD, new) in plane.archived
        assert plane.registry.unreadable == []
        assert plane.registry.encryptions[new.fingerprint] == 0
        assert plane.rewrap.json("rotate", "status")["step"] == "aborted"


def test_a_key_that_something_is_under_stays_when_the_rotation_is_aborted(etcd: EtcdCluster, tmp_path: Path) -> None:
    """As when somebody had made it first on one node by hand, for a moment."""
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        stop_at_spread(plane)
        new = plane.new_key()
        with plane.registry.lock:
            taken, plaintext = next(iter(plane.registry.objects.items()))
        by_hand = f"{taken}-by-hand"
        plane.gateway.put(by_hand, new.seal(by_hand, plaintext))
        ended = plane.rewrap.run("rotate", "abort", "--remove-unused")
        assert ended.code == 4
        assert "1 objects are, or may be, under it, and it may have encrypted 0 times" in ended.stdout
        assert keys_of(plane.text) == [OLD, new]
        assert plane.rotation()["step"] == "aborted"


@pytest.mark.chaos
def test_a_key_that_may_write_stays(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        plane.apiservers[0].refuse_to_reload(refuses=True)
        with plane.rewrap.start("rotate") as running:
            plane.wait_until_at("spread")
            plane.apiservers[0].refuse_to_reload(refuses=False)
            wait(lambda: keys_of(plane.text)[0] != OLD, "new key that is first")
            plane.apiservers[0].refuse_to_reload(refuses=True)
            running.send(signal.SIGTERM)
            running.end()
        ended = plane.rewrap.run("rotate", "abort", "--remove-unused")
        assert ended.code == 4
        assert "the new key may write already, and stays" in ended.stderr


def stop_by_an_edit(plane: ControlPlane) -> tuple[str, str]:
    """Edits the file while a rotation waits; returns the content that was expected, and the one that is there."""
    plane.apiservers[0].refuse_to_reload(refuses=True)
    with plane.rewrap.start("rotate") as running:
        plane.wait_until_at("spread")
        expected = plane.text
        edited = f"{expected}# and another thing\n"
        plane.put(edited)
        ended = running.end()
    plane.apiservers[0].refuse_to_reload(refuses=False)
    assert ended.code == 4
    assert f"the file is {hash_of(edited)}, and {hash_of(expected)} is expected" in ended.stdout
    assert plane.text == edited
    assert plane.rotation()["step"] == "spread"
    return expected, edited


# --------------------------------------------------------------------------------------------------------- by hand


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
            wanted = f"add      waits for you: put what {given} holds in the place of {plane.file}, on every"
            assert any(line.startswith(wanted.encode()) for line in process.stdout)
            assert process.poll() is None
        assert keys_of(given.read_text())[0] == OLD
        # Without --write-to, the file is all that is on stdout; the marks and the words are on stderr.
        with by_hand(plane, "resume") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            said = iter(process.stderr)
            assert b"What was handed out before is void" in next(line for line in said if not line.startswith(b"{"))
            mark = next(found for line in said if (found := MARK.fullmatch(line)))
            content = process.stdout.read(int(mark[2]))
            assert f"sha256:{hashlib.sha256(content).hexdigest()}".encode() == mark[1]
            assert mark[3] == b", no newline at its end"
            assert next(said) == b"----- END %s for the step add -----\n" % mark[1]
            wanted = f"add      waits for you: put what was written to stdout in the place of {plane.file}, on every"
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
            wanted = f"add      waits for you: put what {given} holds in the place of {plane.file}"
            running.wait_for_words(wanted)
            running.send(signal.SIGTERM)
            ended = running.end()
        assert ended.error["code"] == 3
        assert wanted in ended.stderr
        assert given.exists()


# ------------------------------------------------------------------------------------------- a second hand on the wheel


@pytest.mark.chaos
def test_one_rotation_at_a_time_and_it_can_be_paused_looked_at_and_resumed(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        plane.apiservers[0].refuse_to_reload(refuses=True)
        with plane.rewrap.start("rotate") as running:
            first = plane.wait_until_at("spread")
            second = plane.rewrap.run("rotate")
            assert second.code == 4
            assert f"the rotation {first['id']} is at the step spread" in second.stderr
            status = plane.rewrap.run("rotate", "status")
            assert status.code == 0
            assert f"rotation {first['id']}: aescbc:{first['key']} for secrets" in status.stdout
            assert f"waits:   {plane.apiservers[0].url}" in status.stdout
            assert plane.rewrap.json("rotate", "pause")["held"] == "paused by an operator"
            assert running.end().code == 4
        plane.apiservers[0].refuse_to_reload(refuses=False)
        end_well(plane.rewrap.start("rotate", "resume"))
        plane.assert_all_is_under(plane.new_key())
        assert [one["id"] for one in plane.rotations()] == [first["id"]]


@pytest.mark.chaos
def test_a_pause_while_objects_are_rewritten_holds_the_rotation(etcd: EtcdCluster, tmp_path: Path) -> None:
    with control_plane(etcd, tmp_path, plain(OLD), objects=60, tempers=[Temper(poll=0.2)] * 3) as plane:
        with plane.rewrap.with_environment(REWRAP_RATE="5").start("rotate") as running:
            running.wait_for_event("campaign.planned")
            assert plane.rewrap.json("rotate", "pause")["step"] == "rewrap"
            ended = running.end()
        assert plane.rotation()["held"] == "paused by an operator"
        assert ended.code == 4
        assert "because: paused by an operator" in ended.stdout, ended.stderr.splitlines()[-1]
        end_well(plane.rewrap.start("rotate", "resume"))
        plane.assert_all_is_under(plane.new_key())


def test_a_rotation_in_which_nothing_moves_ends_the_command_and_can_be_resumed(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        plane.apiservers[0].refuse_to_reload(refuses=True)
        ended = plane.rewrap.run("rotate", "--converge-timeout", "2")
        assert ended.code == 3
        assert "nothing moved for 2 s (--converge-timeout) at the step spread" in ended.stderr
        plane.apiservers[0].refuse_to_reload(refuses=False)
        end_well(plane.rewrap.start("rotate", "resume"))
        plane.assert_all_is_under(plane.new_key())
