"""The files of deploy/, and the readers of their kinds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
COMPOSE = TOP / "docker-compose.yml"
PAGE = TOP / "docs" / "deploy.md"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXAMPLE = DEPLOY / "systemd" / "rewrap.env.example"

FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
TEXTS = [*FILES, COMPOSE, TOP / ".dockerignore", PAGE]
DAEMONS = ("scheduler", "worker")


def manifests() -> list[dict[str, Any]]:
    """Every document of deploy/kubernetes/base but the kustomization."""
    paths = sorted(BASE.glob("*.yaml"))
    return [
        document
        for path in paths
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def deployments(documents: list[dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """The pod template's spec of each Deployment, by the component's name: the base's, or those of `documents`."""
    found = [one for one in documents or manifests() if one["kind"] == "Deployment"]
    return {one["metadata"]["name"].removeprefix("kube-rewrap-"): one["spec"]["template"]["spec"] for one in found}


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def unit(path: Path) -> list[tuple[str, str, str]]:
    """Section, key and value of each line of a unit. Keys may come more than once."""
    section, found = "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, f"{path.name}: {line!r} is neither a section nor KEY=VALUE"
            assert not line.endswith("\\"), f"{path.name}: {line!r} goes on in the next line, which this reader can't"
            found.append((section, key, value))
    return found
