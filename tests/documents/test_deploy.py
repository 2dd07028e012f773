"""What all of deploy/ has in common: each command, flag, variable, setting and file that it names exists; no secrets.

The kinds have suites of their own: test_deploy_image.py, _backups, _compose, _kubernetes, _systemd, _monitoring.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kube_rewrap.cli.parser import COMMANDS, parse
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.flags import EVERY, variable
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from
from tests.documents.deployment import (
    DAEMONS,
    DEPLOY,
    EXAMPLE,
    FILES,
    PAGE,
    TEXTS,
    TOP,
    UNITS,
    deployments,
    manifests,
    services,
    unit,
)


def test_every_kind_is_looked_at() -> None:
    """A new file that no suite knows would be neither linted nor tested."""
    kinds = {
        "Dockerfile",
        "alerts.yaml",
        "dashboard.json",
        "redis/users.acl.example",
        "backups/backup-etcd",
        "backups/backup.env.example",
        "backups/cronjob.yaml",
        "backups/kube-rewrap-backup-failed.service",
        "backups/kube-rewrap-backup.service",
        "backups/kube-rewrap-backup.timer",
        "systemd/rewrap.env.example",
        *(f"systemd/kube-rewrap-{name}.service" for name in DAEMONS),
    }
    others = {path.relative_to(DEPLOY).as_posix() for path in FILES} - kinds
    assert {path for path in others if not re.fullmatch(r"kubernetes/(?:[a-z-]+/){0,2}[a-z-]+\.yaml", path)} == set()


# Commands.


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Where, and the words after `rewrap`, of every command line that deploy/ would run."""
    for name, spec in deployments().items():
        for container in spec["containers"]:
            if container["image"].startswith("kube-rewrap"):
                yield f"kubernetes/{name}.yaml", container["args"]
    for name, service in services().items():
        if service["image"].startswith("kube-rewrap"):
            yield f"docker-compose.yml: {name}", service["command"]
    for path in UNITS:
        [line] = [value for _, key, value in unit(path) if key == "ExecStart"]
        yield f"systemd/{path.name}", shlex.split(line)[1:]
    for path in sorted(DEPLOY.glob("kubernetes/components/*/*.yaml")):
        for arguments in re.findall(r"value: (\[(?:scheduler|worker),.*\])", path.read_text(encoding="utf-8")):
            yield path.relative_to(DEPLOY).as_posix(), yaml.safe_load(arguments)


LINES = [pytest.param(words, id=f"{place}: {' '.join(words)}") for place, words in command_lines()]


def test_both_daemons_are_deployed_in_all_three_ways() -> None:
    started = {(re.split("[/:]", place)[0], words[0]) for place, words in command_lines()}
    ways = ("kubernetes", "docker-compose.yml", "systemd")
    assert {(way, daemon) for way in ways for daemon in DAEMONS} <= started


def test_the_commands_that_deploy_needs_exist() -> None:
    wanted = {words[0] for _, words in command_lines()} | {"campaign", "audit-log"}
    missing = sorted(wanted - set(COMMANDS))
    assert missing == [], f"cli/parser.py has no {', '.join(missing)} in COMMANDS"


@pytest.mark.parametrize("words", LINES)
def test_a_command_line_is_one_that_rewrap_takes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REWRAP_OUTPUT", "REWRAP_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    assert parse(words).command == words[0]


VERBS = {
    "campaign": {"start", "list", "show", "pause", "resume", "cancel", "wait"},
    "audit-log": {"verify", "list"},
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_command_that_prose_names_exists(path: Path) -> None:
    named = re.findall(r"(?<![\w./:-])rewrap (campaign|audit-log) ([a-z]+)", path.read_text(encoding="utf-8"))
    assert [(command, verb) for command, verb in named if verb not in VERBS[command]] == []


# Variables and settings.


def known_variables() -> set[str]:
    """Those of flags, and those that the code reads by their name."""
    sources = [path for package in ("config", "scheduler", "worker") for path in (TOP / package).rglob("*.py")]
    literal = re.compile(r"\"(REWRAP_[A-Z_]*[A-Z])\"")
    read = {name for path in sources for name in literal.findall(path.read_text(encoding="utf-8"))}
    others = ("--settings", "--encryption-config", "--allow-readable-config", "--keys")
    return {flag.variable for flag in EVERY} | {variable(name) for name in others} | read


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_variable_is_one_that_rewrap_reads(path: Path) -> None:
    named = set(re.findall(r"\bREWRAP_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    assert named - known_variables() == set()


def environment_of_unit() -> dict[str, str]:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment_of_pod(name: str, settings: Path) -> dict[str, str]:
    """What a daemon's pod finds, with the node's address and the Secret filled in."""
    [container] = deployments()[name]["containers"]
    found = {one["name"]: one.get("value") for one in container["env"]}
    [document] = [one for one in manifests() if one["kind"] == "ConfigMap"]
    settings.write_text(document["data"]["settings.toml"], encoding="utf-8")
    endpoints = found["REWRAP_ENDPOINTS"].replace("$(NODE_IP)", "192.0.2.1")
    broker = {"REWRAP_BROKER": "redis://rewrap:x@kube-rewrap-redis:6379/0"}
    return {**found, **broker, "REWRAP_ENDPOINTS": endpoints, "REWRAP_SETTINGS": str(settings)}


def environment_of_service(name: str) -> dict[str, str]:
    found = services()[name]["environment"]
    return {key: re.sub(r"\$\{\w+:\?[^}]*\}", "x", str(value)) for key, value in found.items()}


def settings_of(environment: dict[str, str]) -> Settings:
    """Raises what a daemon would end with."""
    settings = settings_from(EVERY, {}, environment)
    parse_broker(settings.broker)
    return settings


@pytest.mark.parametrize("name", DAEMONS)
def test_a_pods_environment_and_settings_are_accepted(name: str, tmp_path: Path) -> None:
    settings = settings_of(environment_of_pod(name, tmp_path / "settings.toml"))
    assert settings.etcd.endpoints == ("https://192.0.2.1:2379",)
    assert settings.pace.rate == Settings().pace.rate


@pytest.mark.parametrize("name", DAEMONS)
def test_a_compose_services_environment_is_accepted(name: str) -> None:
    settings = settings_of(environment_of_service(name))
    assert settings.etcd.endpoints == ("http://etcd:2379",)
    assert settings.broker.url.reveal() == b"redis://rewrap:x@redis:6379/0"


def test_the_units_example_is_accepted_once_redis_is_filled_in() -> None:
    environment = environment_of_unit()
    assert environment["REWRAP_BROKER"] == ""
    settings = settings_of({**environment, "REWRAP_BROKER": "rediss://rewrap:x@redis.example.com:6379/0"})
    assert settings.etcd.endpoints == ("https://127.0.0.1:2379",)
    assert settings.pace.rate == Settings().pace.rate


# Files and secrets.


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_file_of_ours_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w./-])((?:docs|deploy|tests|requirements)/[\w./*-]*\w)", text)
    assert sorted({name for name in named if not list(TOP.glob(name))}) == []


def test_the_pages_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGE.read_text(encoding="utf-8").replace("\n", " "))
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


SECRETS = {
    "a PEM block": r"-----BEGIN",
    "a password in a URL": r"://[^\s/@:]*:(?!\$\{REDIS_PASSWORD|%s@|PASSWORD@)[^\s/@]+@",
    # Not from a slash on, as paths begin.
    "base64 as long as a key": r"(?<![\w+/.-])[A-Za-z0-9+](?:[A-Za-z0-9+/]{31,}={0,2}|[A-Za-z0-9+/]{21}==)(?![\w+/.-])",
    "hex as long as a hash": r"\b[0-9a-f]{32,}\b",
    "a Secret": r"kind: Secret\b",
    "a password of Redis": r"(?:^|[\s\"'\[])>(?!\$\{REDIS_PASSWORD)[^\s\"'>=-][^\s\"']*[\"']?$",
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
@pytest.mark.parametrize("what", SECRETS)
def test_there_is_no_secret_in(what: str, path: Path) -> None:
    found = re.findall(SECRETS[what], path.read_text(encoding="utf-8"), re.MULTILINE)
    # A long word of letters only is a name, such as one of Kubernetes' fields; several with slashes are a path.
    assert [text for text in found if not re.fullmatch(r"[A-Za-z]+|[a-z]+(?:/[a-z]+)+", text)] == []


def test_the_search_for_secrets_finds_some() -> None:
    """Each pattern, against what it is meant for."""
    caught = {
        "a PEM block": "-----BEGIN PRIVATE KEY-----",
        "a password in a URL": "redis://rewrap:hunter2@redis:6379/0",
        "base64 as long as a key": "secret: " + "c2VjcmV0IGtleSBtYXRlcmlhbCBvZiAzMiBieXRlcyE=",
        "hex as long as a hash": "0123456789abcdef" * 4,
        "a Secret": json.dumps({"kind": "Secret"}).replace('"', ""),
        "a password of Redis": '- ">hunter2"',
    }
    assert {what for what, text in caught.items() if re.search(SECRETS[what], text, re.MULTILINE)} == set(SECRETS)


def test_redis_knows_one_user_and_no_password() -> None:
    rules = (DEPLOY / "redis" / "users.acl.example").read_text(encoding="utf-8").splitlines()
    assert [line.split()[:4] for line in rules] == [
        ["user", "default", "off"],
        ["user", "rewrap", "on", "#SHA256_OF_THE_PASSWORD"],
    ]
    words = rules[1].split()[4:]
    assert words.index("-@all") < min(words.index(word) for word in words if word.startswith("+"))
    assert [word for word in words if word in {"nopass", "allkeys", "allcommands", "~*", "&*", "+@all"}] == []
