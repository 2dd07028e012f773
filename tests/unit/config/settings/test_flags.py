"""Where a setting comes from: a flag, else its variable, else the file, else the default; errors name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.flags import BUDGET, ETCD, PACE, variable
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from


def read(*arguments: str, environment: dict[str, str] | None = None) -> Settings:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    return settings_from((*ETCD, *PACE, *BUDGET), given, environment or {})


def refused(*arguments: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        read(*arguments, environment=environment)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('[pace]\nrate = 30\n[etcd]\nendpoints = ["http://file:2379"]\n')
    return path


def test_without_anything_the_defaults_are_used() -> None:
    assert read() == Settings()


def test_a_flag_is_stronger_than_its_variable_that_than_the_file_that_than_the_default(file: Path) -> None:
    variables = {"REWRAP_RATE": "20"}
    assert read().pace.rate == 500.0
    assert read("--settings", str(file)).pace.rate == 30.0
    assert read("--settings", str(file), environment=variables).pace.rate == 20.0
    assert read("--settings", str(file), "--rate", "10", environment=variables).pace.rate == 10.0


def test_the_file_may_be_named_by_its_variable(file: Path) -> None:
    assert read(environment={"REWRAP_SETTINGS": str(file)}).etcd.endpoints == ("http://file:2379",)


@pytest.mark.parametrize("flag", [*ETCD, *PACE, *BUDGET], ids=lambda flag: flag.name)
def test_every_flag_has_its_variable(flag: object) -> None:
    name = getattr(flag, "name", "")
    assert getattr(flag, "variable", "") == variable(name) == "REWRAP_" + name[2:].upper().replace("-", "_")


def test_endpoints_are_separated_by_commas() -> None:
    assert read("--endpoints", "http://a:1, http://b:2,").etcd.endpoints == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("user", "environment", "expected"),
    [
        pytest.param("root", {}, ("root", None), id="a name alone"),
        pytest.param("root:a:b", {}, ("root", b"a:b"), id="name and password, split at the first colon"),
        pytest.param("root", {"REWRAP_PASSWORD": "x"}, ("root", b"x"), id="the password by its variable"),
        pytest.param("root:a", {"REWRAP_PASSWORD": "x"}, ("root", b"x"), id="the variable is stronger"),
    ],
)
def test_the_user(user: str, environment: dict[str, str], expected: tuple[str, bytes | None]) -> None:
    etcd = read("--user", user, environment=environment).etcd
    assert (etcd.user, etcd.password.reveal() if etcd.password else None) == expected
    assert "a:b" not in repr(etcd)


@pytest.mark.parametrize(
    ("arguments", "environment", "place"),
    [
        pytest.param(("--rate", "fast"), {}, "--rate: is not a number", id="a flag"),
        pytest.param((), {"REWRAP_RATE": "fast"}, "REWRAP_RATE: is not a number", id="a variable"),
        pytest.param(("--gcm-limit", "1.5"), {}, "--gcm-limit: is not a whole number", id="a whole number is wanted"),
        pytest.param(("--rate", "-1"), {}, "pace.rate: must be 0 or 1 to 1000000", id="out of range"),
        pytest.param(("--rate", "nan"), {}, "pace.rate: must be 0 or 1 to 1000000", id="not a number at all"),
        pytest.param(("--gcm-limit", "4294967297"), {}, "budget.gcm_limit: must be 1 to 4294967296", id="past NIST"),
        pytest.param(("--cert", "c.pem"), {}, "etcd.cert: a client certificate needs its key", id="half a certificate"),
        pytest.param(("--endpoints", ","), {}, "etcd.endpoints: must name at least one", id="no endpoint"),
        pytest.param(
            ("--state-prefix", "/registry/rewrap"), {}, "keyspace.state_prefix: must be outside", id="records inside"
        ),
        pytest.param(("--settings", "/nonexistent.toml"), {}, "/nonexistent.toml: can't be read", id="no such file"),
    ],
)
def test_a_fault_names_its_place(arguments: tuple[str, ...], environment: dict[str, str], place: str) -> None:
    assert place in refused(*arguments, environment=environment)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("[pace]\nrate = ", "is not TOML", id="not TOML"),
        pytest.param("pace = 3\n", "pace: must be a table", id="a value where a table belongs"),
        pytest.param(
            "[speed]\nrate = 3\n", "speed: no such group of settings; the groups are etcd,", id="no such group"
        ),
        pytest.param(
            "[pace]\nspeed = 3\n", "pace.speed: no such setting; the settings are rate,", id="no such setting"
        ),
        pytest.param('[pace]\nrate = "3"\n', "pace.rate: must be a number", id="a text for a number"),
        pytest.param("[pace]\nrate = true\n", "pace.rate: must be a number", id="a truth for a number"),
        pytest.param("[pace]\nbatches = 1.5\n", "pace.batches: must be a whole number", id="a part of a batch"),
        pytest.param("[etcd]\nendpoints = [1]\n", "etcd.endpoints: must be a list of texts", id="a list of numbers"),
        pytest.param("[etcd]\npassword = 1\n", "etcd.password: must be a text", id="a number for a password"),
    ],
)
def test_a_fault_in_the_file_names_file_and_setting(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    path.chmod(0o600)
    assert refused("--settings", str(path)).startswith(f"{path}: {fault}")


def test_a_password_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('[etcd]\npassword = "canary"\n')
    path.chmod(0o644)
    message = refused("--settings", str(path))
    assert f"chmod 600 {path}" in message
    assert "canary" not in message


def test_every_fault_is_reported_at_once() -> None:
    assert "2 faults" in refused("--rate", "-1", "--gcm-limit", "0")
