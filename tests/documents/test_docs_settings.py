"""docs/settings.md says what the schema says, and its example can be used."""

from __future__ import annotations

import re
import tomllib

from kube_rewrap.config.settings.flags import EVERY
from kube_rewrap.config.settings.schema import SETTINGS, Settings
from tools.settings_page import PAGE, with_tables


def test_the_tables_are_those_of_the_schema() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run: make docs"


def test_the_headings_are_the_groups() -> None:
    headings = re.findall(r"^## `\[(\w+)\]`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(dict.fromkeys(one.group for one in SETTINGS))


def test_every_flag_of_the_schema_is_in_one_set() -> None:
    assert sorted(flag.name for flag in EVERY) == sorted(one.flag for one in SETTINGS if one.flag)


def test_the_example_is_one() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    settings = Settings()
    for group, values in tomllib.loads(example).items():
        settings = settings.with_values(group, values, "the example")
    assert settings.pace.rate == 200.0
