"""What the command line takes where users expect it, and what it says of variables that set nothing."""

from __future__ import annotations

import re

import pytest

from kube_rewrap.cli.arguments import UsageError, actions_of, variable_of
from kube_rewrap.cli.habits import _ARGUMENTS, _FLAGS, _WORDS
from kube_rewrap.cli.parser import COMMANDS, build_parser, parse, unknown_variables
from kube_rewrap.config.settings.flags import EVERY


@pytest.mark.parametrize("given", [["-o", "json"], ["-ojson"], ["--output", "json"], ["--output=json"]])
def test_the_form_of_the_output_may_stand_before_the_command(given: list[str]) -> None:
    args = parse([*given, "status", "--endpoints", "http://localhost:1"])
    assert (args.command, args.output, args.endpoints) == ("status", "json", "http://localhost:1")


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        (["help"], "rewrap [-h]"),
        (["help", "run"], "rewrap run [-h]"),
        (["help", "campaign", "list"], "rewrap campaign"),
    ],
)
def test_help_is_a_word_too(given: list[str], usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(given)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {usage}")


def test_without_a_word_the_commands_are_shown_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no command is given; see rewrap --help"):
        parse([])
    out, err = capsys.readouterr()
    assert out == ""
    assert "show which key encrypts what" in err


@pytest.mark.parametrize("flags", [["-v"], ["--endpoints=http://localhost:1"], ["--endpoints", "http://localhost:1"]])
def test_a_flag_before_the_command_is_told_its_place(flags: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^(-v|--endpoints) is before the command; write rewrap COMMAND \[FLAGS\];"):
        parse([*flags, "status"])


def test_a_flag_of_another_command_is_not_suggested_for_itself() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["keygen", "--endpoints=x"])
    assert str(caught.value) == "unrecognized arguments: --endpoints=x; see rewrap keygen --help"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run -n payroll", "did you mean --namespace?"),
        ("run -npayroll", "did you mean --namespace?"),
        ("run -A", "all namespaces are covered by default"),
        ("run --namespaces a", "did you mean --namespace?"),
        ("run secrets", "did you mean --resource secrets?"),
        ("verify -n payroll", "--namespace is a flag of run and campaign"),
        ("status --etcd-cafile x", "did you mean --cacert?"),
        ("status --trusted-ca-file=x", "did you mean --cacert?"),
        ("status -w json", "did you mean -o?"),
        ("status --password x", "the password goes into the variable REWRAP_PASSWORD, beside --user NAME"),
        ("status --encryption-provider-config x", "did you mean --encryption-config?"),
        ("inspect secrets payroll", "an object is named by its key in etcd, such as /registry/secrets/NAMESPACE/NAME"),
        ("report 20260101-000000-000000", "did you mean --campaign 20260101-000000-000000?"),
        ("get secrets", "did you mean status, inspect or campaign list?"),
        ("describe x", "did you mean inspect or campaign show?"),
        ("stauts", "did you mean status?"),
        ("campaign get", "did you mean list or show?"),
        ("campaign delete x", "did you mean cancel?"),
        ("run --dry-run=server", "argument --dry-run: takes no value, and got 'server'"),
    ],
)
def test_a_habit_of_kubectl_or_etcdctl_is_told_what_to_write(line: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split())
    assert f"{said}; see rewrap" in str(caught.value)


def test_advice_names_only_commands_verbs_and_flags_that_there_are() -> None:
    parser = build_parser()
    flags = {name for action in actions_of(parser) for name in action.option_strings}
    assert {one for one in (*_FLAGS.values(), *_ARGUMENTS.values()) if one.startswith("-")} <= flags
    assert flags.isdisjoint(_FLAGS)
    assert {*_WORDS}.isdisjoint(COMMANDS)
    for command, *rest in (one.split() for words in _WORDS.values() for one in words):
        known = {str(one) for action in actions_of(parser.command(command)) for one in action.choices or ()} | flags
        assert {*rest} <= known, command


def test_several_values_may_stand_in_one_flag_or_in_several() -> None:
    assert parse(["run", "--resource", "a,b", "--resource", "c"]).resource == ["a", "b", "c"]


def test_the_first_flag_replaces_what_the_variable_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWRAP_RESOURCE", "x,y")
    assert parse(["run"]).resource == ["x", "y"]
    assert parse(["run", "--resource", "a"]).resource == ["a"]


def test_help_names_the_variable_of_each_flag_that_sets_a_setting() -> None:
    named = {own for action in actions_of(build_parser()) if (own := variable_of(action))}
    assert {flag.variable for flag in EVERY} <= named
    assert "[REWRAP_ENDPOINTS]" in re.sub(r"\s+", " ", _help("status"))


def _help(command: str) -> str:
    [subparsers] = [action for action in build_parser()._actions if isinstance(action.choices, dict)]
    return str(subparsers.choices[command].format_help())  # type: ignore[index]


def test_a_variable_that_sets_nothing_is_told_with_the_nearest_name() -> None:
    [warning] = unknown_variables({"REWRAP_APISERVERS": "", "REWRAP_APISERVER": "", "PATH": ""})
    assert warning == "the variable REWRAP_APISERVERS sets nothing; did you mean REWRAP_APISERVER?"


@pytest.mark.parametrize(
    "name",
    [
        "REWRAP_PASSWORD",
        "REWRAP_TRACEBACK",
        "REWRAP_SERVICE_HOST",
        "REWRAP_SERVICE_PORT_HTTP",
        "REWRAP_PORT",
        "REWRAP_PORT_6379_TCP_ADDR",
        "REWRAP_REDIS_SERVICE_HOST",
        "REWRAP_REDIS_PORT_6379_TCP",
    ],
)
def test_what_sets_something_and_what_kubernetes_sets_is_not_told(name: str) -> None:
    assert list(unknown_variables([name])) == []
