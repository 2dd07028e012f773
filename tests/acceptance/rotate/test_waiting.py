"""A rotation waits for a kube-apiserver that was not listed, went back to the old file, or does not reload."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.acceptance.control_plane import control_plane, keys_of, wait
from tests.acceptance.rotate.running import end_well, stop_at_spread
from tests.acceptance.rotate.texts import OLD, plain
from tests.integration.apiserver import write_private
from tests.servers.apiserver import compacting
from tests.servers.etcd import EtcdCluster


def test_a_kube_apiserver_that_nobody_listed_blocks_until_its_address_is_given(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        *listed, forgotten = plane.apiservers
        lease = f"{forgotten.name} on {forgotten.name} has a live lease, and no address reported its id"
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


def test_a_rotation_in_which_nothing_moves_ends_the_command_and_can_be_resumed(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        plane.apiservers[0].refuse_to_reload(refuses=True)
        ended = plane.rewrap.run("rotate", "--converge-timeout", "2")
        assert ended.code == 3
        assert "the rotation made no progress for 2 s (--converge-timeout) at the step spread" in ended.stderr
        plane.apiservers[0].refuse_to_reload(refuses=False)
        end_well(plane.rewrap.start("rotate", "resume"))
        plane.assert_all_is_under(plane.new_key())
