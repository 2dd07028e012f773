"""One rotation at a time; an operator pauses it, looks at it, and resumes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.control_plane import control_plane
from tests.acceptance.rotate.running import end_well
from tests.acceptance.rotate.texts import OLD, plain
from tests.servers.apiserver import Temper
from tests.servers.etcd import EtcdCluster


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
