"""The variables of the flags that commands have beside the settings: each flag overrides its variable."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.main import main
from kube_rewrap.cli.parser import parse

COMMANDS = [["run"], ["rotate"], ["campaign", "start"]]
NAMES = [" ".join(command) for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_a_variable_gives_many_values_and_the_flag_replaces_them(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse(command).resource == []
    monkeypatch.setenv("REWRAP_RESOURCE", "secrets, configmaps")
    assert parse(command).resource == ["secrets", "configmaps"]
    assert parse([*command, "--resource", "pods", "--resource", "nodes"]).resource == ["pods", "nodes"]
    assert parse(command).resource == ["secrets", "configmaps"]


@pytest.mark.parametrize("command", [["run"], ["campaign", "start"]], ids=["run", "campaign start"])
def test_the_variables_of_run_are_those_of_a_campaign(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWRAP_NAMESPACE", "team-a")
    for name in ("ALLOW_PLAINTEXT", "ALLOW_EMPTY", "WAIT"):
        monkeypatch.setenv(f"REWRAP_{name}", "yes")
    args = parse(command)
    assert (args.namespace, args.allow_plaintext, args.allow_empty, args.wait) == (["team-a"], True, True, True)


def test_the_variables_of_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    args = parse(["rotate"])
    assert (args.provider, args.prune, args.manual, args.write_to, args.dry_run) == (None, False, False, None, False)
    for name, text in {"PROVIDER": "aesgcm", "PRUNE": "1", "MANUAL": "true", "WRITE_TO": "f", "DRY_RUN": "1"}.items():
        monkeypatch.setenv(f"REWRAP_{name}", text)
    args = parse(["rotate"])
    assert (args.provider, args.prune, args.manual, args.write_to, args.dry_run) == ("aesgcm", True, True, "f", True)


@pytest.mark.parametrize("words", [["resume"], ["abort", "--remove-unused"]], ids=["resume", "abort"])
def test_variables_for_a_new_rotation_are_ignored_where_none_begins(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"RESOURCE": "secrets", "PROVIDER": "aesgcm", "PRUNE": "1"}.items():
        monkeypatch.setenv(f"REWRAP_{name}", text)
    # The next check of the arguments is the one that refuses.
    assert main(["rotate", *words, "--manual", "-o", "json"]) == 2
    assert "--write-to: is missing" in capsys.readouterr().out
    assert main(["rotate", *words, "--provider", "secretbox"]) == 2
    assert "--provider: is for a new rotation" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pause", "resume", "abort"])
def test_a_variable_asks_for_a_dry_run_and_what_would_write_is_refused(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REWRAP_DRY_RUN", "1")
    assert main(["rotate", verb]) == 2
    assert "--dry-run: shows what a new rotation would do" in capsys.readouterr().err


@pytest.mark.parametrize("provider", ["identity", "nosuch"])
def test_a_new_key_needs_a_provider_that_encrypts(provider: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rotate", "--yes", "--provider", provider, "--encryption-config", "/nonexistent"]) == 2
    assert "--provider: is no provider that encrypts" in capsys.readouterr().err
