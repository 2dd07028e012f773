"""What the checklist takes from records: when a key was made, and when a campaign was proven."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from kube_rewrap.scheduler.hardening.survey import _made, _proven_at, _since_everything, _socket
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep

MADE = "2026-01-02T00:00:00+00:00"
LATER = "2026-03-04T00:00:00+00:00"
MADE_SECONDS, LATER_SECONDS = 1_767_312_000.0, 1_772_582_400.0
ROTATION = Rotation(
    id="r",
    step=RotationStep.SPREAD,
    because="why",
    entries=(0,),
    resources=("secrets",),
    provider="aesgcm",
    key_name="new",
    retired=(),
    file="sha256:0",
    fingerprint="1" * 16,
)
CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.COMPLETE,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=1,
    planned_at=MADE,
    because="why",
    ended_at=LATER,
)


def passed(step: RotationStep, at: str) -> Rotation:
    return replace(ROTATION, passed=(Passed(step, at, "why"),))


def test_a_key_is_as_old_as_the_first_step_that_added_it() -> None:
    added, again = passed(RotationStep.ADD, MADE), passed(RotationStep.ADD, LATER)
    assert _made([again, added]) == _made([added, again]) == {"1" * 16: MADE_SECONDS}


def test_a_rotation_that_added_nothing_yet_or_has_no_key_or_no_time_tells_nothing() -> None:
    no_key = replace(passed(RotationStep.ADD, MADE), fingerprint="")
    assert _made([ROTATION, passed(RotationStep.SPREAD, MADE), no_key, passed(RotationStep.ADD, "soon")]) == {}


def test_the_proof_is_that_of_the_complete_campaign_at_its_revision() -> None:
    proven = replace(CAMPAIGN, proof_revision=7)
    other = replace(proven, state=CampaignState.INCOMPLETE, ended_at=MADE)
    assert _proven_at([other, proven], 7) == LATER_SECONDS
    assert _proven_at([other, proven], 8) is None
    assert _proven_at([replace(proven, ended_at="")], 7) is None


def test_a_later_campaign_over_a_part_does_not_hide_what_one_over_everything_left() -> None:
    incomplete = replace(CAMPAIGN, state=CampaignState.INCOMPLETE)
    everything = replace(incomplete, id="everything", whole=True)
    part = replace(CAMPAIGN, id="part", scope=Scope(("secrets",), ("team-a",)))
    before = replace(incomplete, id="before")
    assert _since_everything([before, everything, part]) == [everything]
    assert _since_everything([before, everything, replace(part, state=CampaignState.INCOMPLETE)]) == [
        everything,
        replace(part, state=CampaignState.INCOMPLETE),
    ]
    assert _since_everything([everything, replace(everything, state=CampaignState.COMPLETE)]) == []
    assert _since_everything([before, part]) == [before]


def test_a_plugins_socket_is_looked_at_where_its_links_lead(tmp_path: Path) -> None:
    directory, link = tmp_path / "kms", tmp_path / "link"
    directory.mkdir(mode=0o750)
    place = directory / "kms.sock"
    os.mknod(place, stat.S_IFSOCK)
    place.chmod(0o660)
    link.symlink_to(place)
    found = _socket("cloud", str(link))
    assert (found.unseen, found.is_socket, found.mode, found.owner) == ("", True, 0o660, os.getuid())
    assert (found.directory_mode, found.directory_owner, found.is_shielded) == (0o750, os.getuid(), True)
    place.unlink()
    assert _socket("cloud", str(link)).unseen == "No such file or directory"
    place.touch()
    assert not _socket("cloud", str(link)).is_socket
    assert _socket("cloud", "@kms").unseen
    link.unlink()
    link.symlink_to(link)
    assert _socket("cloud", str(link)).unseen
