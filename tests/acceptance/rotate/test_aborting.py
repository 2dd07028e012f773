"""A file edited by hand holds a rotation; `rotate abort` leaves the file, or removes a key that was never used."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kube_rewrap.cli.output import with_short_hashes
from tests.acceptance.control_plane import ControlPlane, control_plane, hash_of, keys_of, wait
from tests.acceptance.rotate.running import end_well, stop_at_spread
from tests.acceptance.rotate.texts import OLD, odd, plain
from tests.servers.etcd import EtcdCluster


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
    shown = with_short_hashes(f"the file is {hash_of(edited)}, and {hash_of(expected)} is expected")
    assert shown in ended.stdout
    assert plane.text == edited
    assert plane.rotation()["step"] == "spread"
    return expected, edited
