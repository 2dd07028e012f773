"""What child processes of a run share: each gets its part of the limits that hold for the whole run."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.child import with_share_of_reads
from kube_rewrap.config.settings.schema import PaceSettings, Settings


@pytest.mark.parametrize(
    ("pace", "share"),
    [
        pytest.param(PaceSettings(rate=500, read_share=0.5), 0.125, id="rests => a quarter of the reads for each"),
        pytest.param(PaceSettings(rate=500, read_share=1), 1, id="reads without rests => none in any"),
        pytest.param(PaceSettings(rate=0), 1, id="no ceiling => no rests in any"),
    ],
)
def test_four_children_read_together_as_much_as_one_process(pace: PaceSettings, share: float) -> None:
    assert with_share_of_reads(Settings(pace=pace), 4).pace.share_of_reads == share
