"""Whether etcd has room: sizes and alarms in, a refusal or none out."""

from __future__ import annotations

import re

import pytest

from kube_rewrap.config.settings.schema import SpaceSettings
from kube_rewrap.worker.etcd.store import MemberStatus
from kube_rewrap.worker.rate.pressure import DEFAULT_QUOTA, Room, judge_space

MIB = 2**20
GIB = 2**30
SETTINGS = SpaceSettings()


def member(size: int, in_use: int, quota: int = 0) -> MemberStatus:
    return MemberStatus("http://m:2379", "3.5.0", size, in_use, quota, 1, 1)


def quota(size: int, stop_at: float = 0.8) -> SpaceSettings:
    return SpaceSettings(quota_bytes=size, stop_at=stop_at)


@pytest.mark.parametrize(
    ("members", "to_write", "settings", "room"),
    [
        pytest.param([member(0, 0)], 0, SETTINGS, (0, 2 * GIB, "go"), id="empty => go"),
        pytest.param([member(GIB, GIB)], 0, SETTINGS, (GIB, 2 * GIB, "go"), id="half of the default quota => go"),
        pytest.param(
            [member(GIB, GIB)], GIB, SETTINGS, (2 * GIB, 2 * GIB, "stop"), id="would double up to the quota => stop"
        ),
        pytest.param(
            [member(1_500 * MIB, 100 * MIB)],
            MIB,
            SETTINGS,
            (1_500 * MIB, 2 * GIB, "go"),
            id="free pages take what is written => the file does not grow",
        ),
        pytest.param(
            [member(1_700 * MIB, 100 * MIB)],
            0,
            SETTINGS,
            (1_700 * MIB, 2 * GIB, "stop"),
            id="a file past the mark => stop, even with free pages in it",
        ),
        pytest.param(
            [member(3 * GIB, 3 * GIB, 8 * GIB)], 0, SETTINGS, (3 * GIB, 8 * GIB, "go"), id="etcd tells its quota"
        ),
        pytest.param(
            [member(3 * GIB, 3 * GIB, 8 * GIB)],
            0,
            quota(3 * GIB),
            (3 * GIB, 3 * GIB, "stop"),
            id="the operator's word is stronger than etcd's",
        ),
        pytest.param(
            [member(MIB, MIB), member(1_900 * MIB, MIB), member(2 * MIB, MIB)],
            0,
            SETTINGS,
            (1_900 * MIB, 2 * GIB, "stop"),
            id="the fullest member decides",
        ),
        pytest.param([member(8, 8)], 0, quota(10), (8, 10, "go"), id="exactly at the mark => go"),
        pytest.param([member(8, 8)], 1, quota(10), (9, 10, "stop"), id="a byte past the mark => stop"),
    ],
)
def test_space(members: list[MemberStatus], to_write: int, settings: SpaceSettings, room: tuple[int, int, str]) -> None:
    judged = judge_space(members, [], to_write, settings)
    assert (judged.projected, judged.quota, "go" if judged.refusal is None else "stop") == room


@pytest.mark.parametrize("alarms", [["NOSPACE"], ["CORRUPT"], ["NONE", "NOSPACE"]])
def test_any_alarm_refuses_however_empty_etcd_is(alarms: list[str]) -> None:
    room = judge_space([member(0, 0)], alarms, 0, SETTINGS)
    assert room.refusal is not None
    assert room.refusal.startswith(f"etcd raised the alarm {alarms[-1]}: ")


def test_the_alarm_none_is_none() -> None:
    assert judge_space([member(5, 5)], ["NONE"], 0, SETTINGS) == Room(5, DEFAULT_QUOTA, None)


def test_the_refusal_says_how_full_and_what_to_do() -> None:
    refusal = judge_space([member(2 * GIB, GIB)], [], 0, SETTINGS).refusal
    assert refusal is not None
    assert re.match(r"etcd would hold 2\S+ .iB, past 80% of its quota of 2\S+ .iB: wait for a compaction", refusal)
    assert "--quota-bytes" in refusal
