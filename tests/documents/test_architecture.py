"""ARCHITECTURE.md names every module, in the paragraph of its room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kube_rewrap import config

ROOT = Path(config.__file__ or "").resolve().parents[1]
PACKAGES = ("config", "worker", "scheduler", "cli")


def section_of(package: str) -> str:
    """Return the text below the heading of a package, up to the next heading."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n### {package}\n")
    return re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]


def paragraph_of(section: str, module: Path) -> str:
    """Return the row of the module's room; the section without the rows for a module outside rooms."""
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    if len(module.parts) == 2:
        return "\n".join(line for line in section.splitlines() if line not in rows)
    return next((row for row in rows if row.startswith(f"| `{module.parts[1]}/` |")), "")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_named_in_the_paragraph_of_its_room(package: str) -> None:
    section = section_of(package)
    modules = [file.relative_to(ROOT) for file in sorted((ROOT / package).rglob("*.py")) if file.stem != "__init__"]
    assert len(modules) > 10
    missing = [
        str(module)
        for module in modules
        if module.stem not in re.findall(r"`([a-z0-9_]+)`", paragraph_of(section, module))
    ]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_in_the_tables_exists(package: str) -> None:
    rooms = re.findall(r"^\| `([a-z_]+)/` \|", section_of(package), flags=re.MULTILINE)
    assert sorted(rooms) == sorted(file.parent.name for file in (ROOT / package).glob("*/__init__.py"))
