"""docs/settings.md says what the code does: the same groups, fields, flags, variables and defaults, both ways."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.flags import EVERY
from kube_rewrap.config.settings.schema import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"^## `\[(\w+)\]`.*?\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))
GROUPS = {group.name: getattr(Settings(), group.name) for group in fields(Settings)}
FIELDS = [(group, one.name) for group, values in GROUPS.items() for one in fields(values)]

# Secret, so it has no flag of its own: `--user NAME:PASSWORD` or the variable alone.
VARIABLE_ONLY = {("etcd", "password"): "`REWRAP_PASSWORD` only"}


def row(group: str, name: str) -> list[str]:
    """The cells of a setting's row: name, flag and variable, unit and default, meaning."""
    [found] = [line for line in SECTIONS[group].splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def told(default: object) -> str:
    """A default as the page writes it."""
    match default:
        case None | ():
            return "none"
        case bool():
            return str(default).lower()
        case SecretBytes():
            return f"`{default.reveal().decode()}`"
        case tuple():
            return f"`{','.join(default)}`"
        case str():
            return f"`{default}`"
        case _:
            return f"{default:g}" if default != int(default) else str(int(default))  # type: ignore[call-overload]


def test_the_groups_are_those_of_the_code() -> None:
    assert list(SECTIONS) == list(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_has_a_row_for_each_setting_and_no_other(group: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", SECTIONS[group], re.MULTILINE)
    assert rows == [one.name for one in fields(GROUPS[group])]


@pytest.mark.parametrize(("group", "name"), FIELDS)
def test_each_row_has_the_flag_the_variable_and_the_default(group: str, name: str) -> None:
    flags = [flag for flag in EVERY if (flag.group, flag.field) == (group, name)]
    expected = [f"`{flag.name}`, `{flag.variable}`" for flag in flags] or ["file only"]
    _, place, default, meaning = row(group, name)
    assert place == VARIABLE_ONLY.get((group, name), expected[0])
    assert default.rpartition(", ")[2] == told(getattr(GROUPS[group], name))
    assert meaning.endswith(".")


def test_the_example_is_one() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    settings = Settings()
    for group, values in tomllib.loads(example).items():
        settings = settings.with_values(group, values, "the example")
    assert settings.pace.rate == 200.0
