"""docker-compose.yml: the keys are compose's, what is referred to exists, and nothing has more rights than it needs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.documents.deployment import COMPOSE, DAEMONS, DEPLOY, TOP

TEXT = COMPOSE.read_text(encoding="utf-8")
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]

# Of the Compose specification, what may stand here. Its schema is not at hand offline.
TOP_KEYS = {"name", "services", "volumes"}
SERVICE_KEYS: dict[str, type | tuple[type, ...]] = {
    "build": dict,
    "cap_drop": list,
    "command": list,
    "depends_on": dict,
    "deploy": dict,
    "environment": dict,
    "healthcheck": dict,
    "image": str,
    "logging": dict,
    "mem_limit": str,
    "memswap_limit": str,
    "pids_limit": int,
    "ports": list,
    "read_only": bool,
    "restart": str,
    "security_opt": list,
    "stop_grace_period": str,
    "tmpfs": list,
    "user": str,
    "volumes": list,
}
each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_top_level_is_known() -> None:
    assert {key for key in DOCUMENT if not key.startswith("x-")} == TOP_KEYS


@each_service
def test_a_services_keys_are_known_and_of_their_type(name: str) -> None:
    service = SERVICES[name]
    assert set(service) <= set(SERVICE_KEYS)
    assert [key for key, value in service.items() if not isinstance(value, SERVICE_KEYS[key])] == []
    # YAML would make numbers and booleans of some words; compose wants texts.
    assert [word for word in service.get("command", []) if not isinstance(word, str)] == []
    assert [value for value in service.get("environment", {}).values() if not isinstance(value, str)] == []
    assert service.get("restart", "no") in {"no", "on-failure"}


@each_service
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["mem_limit"] == service["memswap_limit"], "it could be swapped out"


@each_service
def test_an_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z]+)?", SERVICES[name]["image"])


def test_our_image_is_built_and_its_version_is_the_projects() -> None:
    ours = [service for service in SERVICES.values() if "build" in service]
    assert {service["image"] for service in ours} == {"kube-rewrap:0.1.0"}
    assert 'version = "0.1.0"' in (TOP / "pyproject.toml").read_text(encoding="utf-8")
    for service in ours:
        assert (TOP / service["build"]["context"]).resolve() == TOP
        assert (TOP / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@each_service
def test_what_a_service_depends_on_exists_and_can_be_waited_for(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        match how["condition"]:
            case "service_healthy":
                assert "healthcheck" in SERVICES[other]
            case "service_completed_successfully":
                assert SERVICES[other]["restart"] == "no"
            case unknown:
                pytest.fail(f"{name} waits for {other} to be {unknown}")


@each_service
def test_a_health_check_has_bounds_and_needs_no_shell(name: str) -> None:
    check = SERVICES[name].get("healthcheck")
    if check is not None:
        assert check["test"][0] == "CMD"
        assert (
            {"interval", "timeout", "retries"}
            <= set(check)
            <= {"test", "interval", "timeout", "retries", "start_period"}
        )


def test_ports_are_published_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports != []
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@each_service
def test_volumes_are_declared_and_tmpfs_has_a_size(name: str) -> None:
    mounts = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]
    assert {source for source, *_ in mounts} <= set(DOCUMENT["volumes"])
    assert [mount for mount in SERVICES[name].get("tmpfs", []) if "size=" not in mount] == []


def test_the_password_is_asked_for_and_never_given() -> None:
    used = re.findall(
        r"\$\{(\w+)(:\?[^}]+)?\}", "\n".join(line for line in TEXT.splitlines() if line.strip()[0:1] != "#")
    )
    assert {name for name, _ in used} == {"REDIS_PASSWORD"}
    assert [name for name, message in used if not message] == [], "an empty password would be taken"


def test_redis_keeps_nothing_evicts_nothing_and_has_the_users_of_the_example() -> None:
    options = " ".join(SERVICES["redis"]["command"]).split(" --")
    assert options[0] == "redis-server"
    assert {"save ", "appendonly no", "maxmemory-policy noeviction", "proto-max-bulk-len 1mb"} <= set(options)
    users = [" ".join(option.split()) for option in options if option.startswith("user ")]
    example = (DEPLOY / "redis" / "users.acl.example").read_text(encoding="utf-8").splitlines()
    hidden = [re.sub(r" (?:>\$\{REDIS_PASSWORD:\?.*?\}|#SHA256_OF_THE_PASSWORD) ", " … ", user) for user in users]
    assert hidden == [line.replace("#SHA256_OF_THE_PASSWORD", "…") for line in example]


def test_the_daemons_read_what_the_seeder_writes() -> None:
    seed = SERVICES["seed"]
    written = seed["command"][seed["command"].index("--file") + 1]
    [(volume, directory)] = [mount.split(":") for mount in seed["volumes"]]
    assert written.startswith(f"{directory}/")
    for name in DAEMONS:
        daemon = SERVICES[name]
        assert daemon["environment"]["REWRAP_ENCRYPTION_CONFIG"] == written
        assert daemon["environment"]["REWRAP_ENDPOINTS"] == seed["command"][seed["command"].index("--seed-only") + 1]
        assert daemon["volumes"] == [f"{volume}:{directory}:ro"]
        # The file has mode 0600.
        assert daemon["user"] == seed["user"]
    # A new named volume takes over the owner of what the image has there.
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    user, _, group = seed["user"].partition(":")
    assert f'"--owner={user}", "--group={group}", "--mode=0700", "{directory}"' in dockerfile


def test_there_are_two_workers_and_their_health_is_asked_where_it_is_served() -> None:
    assert SERVICES["worker"]["deploy"] == {"replicas": 2}
    for name in DAEMONS:
        port = SERVICES[name]["environment"]["REWRAP_METRICS_ADDR"].rpartition(":")[2]
        assert f"http://127.0.0.1:{port}/readyz" in SERVICES[name]["healthcheck"]["test"][-1]
    assert SERVICES["scheduler"]["ports"] == ["127.0.0.1:9464:9464"]
