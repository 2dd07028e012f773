"""Arguments of `rewrap campaign` that are refused before anything is asked of etcd."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.main import main


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize("words", [["start", "--wait"], ["wait", "some"]], ids=" ".join)
def test_a_bound_that_is_none(words: list[str], seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", *words, "--timeout", seconds]) == 2
    assert "--timeout" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--direct", "--broker=redis://127.0.0.1:1"])
def test_the_queue_is_no_way_of_the_command_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["campaign", "start", flag]) == 2
    assert "unrecognized arguments" in capsys.readouterr().err
