"""What deploy/Dockerfile builds, and what is not in it."""

from __future__ import annotations

import pytest

from tests.image.bases import IMAGE, SLIM
from tests.image.engine import Engine

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

# 81 MB when this was written.
_MOST_BYTES = 90_000_000
_SITE = "/opt/kube-rewrap/lib/python3.11/site-packages"


def inside(docker: Engine, *words: str) -> str:
    """The output of a program in the image, as hardened as the daemons and without a network."""
    hardened = ["--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    program, *arguments = words
    return docker.docker("run", *hardened, "--entrypoint", program, IMAGE, *arguments)


def test_it_adds_little_to_pythons_image(docker: Engine) -> None:
    assert docker.inspect(IMAGE)["Size"] - docker.inspect(SLIM)["Size"] < _MOST_BYTES


def test_it_runs_as_a_user_that_is_not_root(docker: Engine) -> None:
    assert docker.inspect(IMAGE)["Config"]["User"] == "65532:65532"
    assert inside(docker, "id", "-u").strip() == "65532"


def test_it_starts_on_a_read_only_root(docker: Engine) -> None:
    assert "scheduler" in inside(docker, "rewrap", "--help")


def test_it_holds_no_tool_that_builds_or_installs(docker: Engine) -> None:
    names = set(inside(docker, "ls", _SITE, "/opt/kube-rewrap/bin").split())
    assert {"celery", "grpc", "kube_rewrap"} <= names
    assert {name for name in names if name.startswith(("pip", "setuptools", "hatchling", "wheel"))} == set()


def test_every_module_of_ours_is_compiled_and_imports(docker: Engine) -> None:
    script = f"""
import importlib, pathlib, pkgutil, kube_rewrap, celery.bin.celery
for found in pkgutil.walk_packages(kube_rewrap.__path__, "kube_rewrap."):
    importlib.import_module(found.name)
    source = pathlib.Path(importlib.util.find_spec(found.name).origin)
    assert pathlib.Path(importlib.util.cache_from_source(str(source))).exists(), source
print(sorted(path for path in pathlib.Path("{_SITE}").rglob("*.opt-?.pyc")))
"""
    assert inside(docker, "python", "-c", script).strip() == "[]"
