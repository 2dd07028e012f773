"""`make docs`: writes the tables of docs/settings.md from config/settings/schema.py, and keeps the text around them."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from kube_rewrap.config.settings import schema
from kube_rewrap.config.settings.flags import variable
from kube_rewrap.config.settings.setting import Setting

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_HEAD = "| TOML | flag, variable | value | default | meaning, and why this default |\n| --- | --- | --- | --- | --- |\n"
_TABLE = r"(^## `\[{group}\]`[^\n]*\n(?:(?!## )[^|\n]*\n)*)(?:\|[^\n]*\n)*"


def with_tables(page: str) -> str:
    """Return the page with the first table below each group's heading replaced. Raises ValueError."""
    docstrings = dict(_docstrings())
    for group, rows in itertools.groupby(schema.SETTINGS, lambda one: one.group):
        kind = type(getattr(schema.Settings(), group)).__name__
        table = _HEAD + "".join(_row(one, docstrings.get((kind, one.name), "")) for one in rows)
        page, found = re.subn(_TABLE.format(group=group), lambda match: match[1] + table, page, flags=re.MULTILINE)  # noqa: B023 - called at once
        if found != 1:
            raise ValueError(f"{found} headings begin with ## `[{group}]`")
    return page


def _row(one: Setting, docstring: str) -> str:
    place = (
        f"`{one.flag}`, `{variable(one.flag)}`" if one.flag else f"`{one.variable}`" if one.variable else "file only"
    )
    value = one.unit if one.bounds is None else f"{one.unit}, {one.bounds}"
    is_text = one.default_text != "none" and one.kind not in {int, float, bool}
    default = f"`{one.default_text}`" if is_text else one.default_text
    meaning = " ".join(f"{one.summary}. {docstring}".split())
    return f"| `{one.name}` | {place} | {value} | {default} | {meaning} |\n"


def _docstrings() -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what stands below each field of the schema, by class and field."""
    for group in (one for one in ast.parse(inspect.getsource(schema)).body if isinstance(one, ast.ClassDef)):
        for one, after in itertools.pairwise(group.body):
            match one, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield (group.name, name), text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
