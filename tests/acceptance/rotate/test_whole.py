"""A whole `rewrap rotate` beside three stand-ins for kube-apiservers, which read and write all the while."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.control_plane import control_plane, hash_of, keys_of
from tests.acceptance.rotate.running import end_well, wait_for
from tests.acceptance.rotate.texts import OLD, mode, odd, plain
from tests.integration.apiserver import IDENTITY
from tests.servers.apiserver import Temper
from tests.servers.etcd import EtcdCluster


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
