"""deploy/Dockerfile and .dockerignore: what is copied exists and is let through; the image is nobody's root."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

TOP = Path(__file__).parents[2]
IGNORE = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, each on one line, without comments."""
    text = (TOP / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, re.sub(r"\s+", " ", rest).strip()) for name, _, rest in (line.partition(" ") for line in joined)]


ALL = instructions()
FINAL = ALL[max(number for number, (name, _) in enumerate(ALL) if name == "FROM") :]


def sources() -> list[str]:
    """What is copied out of the repository."""
    copies = [rest.split()[:-1] for name, rest in ALL if name == "COPY" and "--from=" not in rest]
    return [source for copied in copies for source in copied]


def is_ignored(path: str) -> bool:
    """Docker's rule: the last pattern that matches decides; a directory's pattern holds for what is in it."""
    ignored = False
    for line in IGNORE:
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").lstrip("/")
        places = [path, *(parent.as_posix() for parent in Path(path).parents if parent != Path())]
        names = Path(path).parts if pattern.startswith("**/") else places
        if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            ignored = not line.startswith("!")
    return ignored


def test_every_instruction_is_one() -> None:
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "LABEL", "ENV", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in ALL} <= known


def test_what_is_copied_exists() -> None:
    assert [source for source in sources() if not (TOP / source).exists()] == []


def test_what_is_copied_is_let_through_and_the_rest_is_not() -> None:
    files = [path for source in sources() for path in (TOP / source, *(TOP / source).rglob("*.py"))]
    assert [str(path) for path in files if is_ignored(path.relative_to(TOP).as_posix())] == []
    others = [".git/config", ".venv/bin/python", ".servers/redis", "tests/golden", "enc.yaml", "client.key", "x.env"]
    assert [path for path in others if not is_ignored(path)] == []
    assert is_ignored("worker/__pycache__")


def test_everything_that_is_installed_is_copied() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    needed = {*packages, "pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert needed <= set(sources())


def test_everything_from_the_network_is_pinned() -> None:
    runs = [json.loads(rest) for name, rest in ALL if name == "RUN"]
    pips = [words for words in runs if words[0].endswith("/pip")]
    hashed = [words for words in pips if "--require-hashes" in words]
    assert [words for words in pips if words not in hashed and "--no-deps" not in words] == []
    assert [
        words for words in pips if words not in hashed and not {"--no-index", "--no-build-isolation"} & {*words}
    ] == []
    requirements = [word for words in hashed for word in words if word.startswith("requirements/")]
    assert requirements == ["requirements/build.txt", "requirements/runtime.txt"]
    for path in requirements:
        assert "--hash=sha256:" in (TOP / path).read_text(encoding="utf-8")


def test_both_stages_are_the_same_python_which_is_pinned_and_new_enough() -> None:
    [version] = [rest.removeprefix("PYTHON=") for name, rest in ALL if name == "ARG" and rest.startswith("PYTHON=")]
    images = [rest.split()[0] for name, rest in ALL if name == "FROM"]
    assert images == ["python:${PYTHON}-bookworm", "python:${PYTHON}-slim-bookworm"]
    assert re.fullmatch(r"3\.11\.\d+", version)
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_no_shell_is_needed() -> None:
    for name, rest in ALL:
        if name in {"RUN", "ENTRYPOINT", "CMD"}:
            assert all(isinstance(word, str) for word in json.loads(rest))


def test_the_final_image_runs_rewrap_as_a_numeric_user_that_is_not_root() -> None:
    users = [rest for name, rest in FINAL if name == "USER"]
    assert [re.fullmatch(r"(\d+):(\d+)", user) is not None for user in users] == [True]
    assert "0" not in users[0].split(":")
    assert ("ENTRYPOINT", '["rewrap"]') in FINAL
    assert "rewrap" in PROJECT["project"]["scripts"]
    assert ("HEALTHCHECK", "NONE") in FINAL
    # Nothing is done after it as somebody else.
    assert [name for name, _ in FINAL].index("USER") > max(i for i, (name, _) in enumerate(FINAL) if name == "RUN")


def test_the_final_image_gets_the_environment_where_it_was_made() -> None:
    copies = [rest for name, rest in FINAL if name == "COPY"]
    assert copies == ["--from=builder /opt/kube-rewrap /opt/kube-rewrap"]
    assert any(name == "ENV" and "PATH=/opt/kube-rewrap/bin:$PATH" in rest for name, rest in FINAL)
