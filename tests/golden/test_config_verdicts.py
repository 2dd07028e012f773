"""kube-apiserver's own verdict on 76 texts: accept and refuse the same ones, name the same field, show no key."""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, load
from kube_rewrap.config.errors import ConfigError

FILE = Path(__file__).parent / "encryption-config-verdicts.jsonl"
FIELD_PATH = re.compile(r"(?:^|[\s\"])((?:resources\[\d+\]|resources|extra|Resources)(?:\.\w+(?:\[\d+\])?)*)(?=[\":])")
SECRET = re.compile(r"secret: *[\"']?([^\s\"',}]{4,})")


@dataclass(frozen=True)
class Verdict:
    name: str
    yaml: str
    ok: bool
    error: str | None

    @property
    def field_path(self) -> str | None:
        """The path in upstream's message, the first one that is not its own quoting of the type."""
        found = FIELD_PATH.search((self.error or "").removeprefix("error while parsing file: "))
        return found[1] if found else None


VERDICTS = [Verdict(**json.loads(line)) for line in FILE.read_text().splitlines()]


def _load(verdict: Verdict) -> EncryptionConfiguration | ConfigError:
    try:
        return load(verdict.yaml.encode(), "encryption.yaml")
    except ConfigError as error:
        return error


def test_the_recording_is_whole() -> None:
    assert len(VERDICTS) == 76
    assert sum(verdict.ok for verdict in VERDICTS) == 27


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.name)
def test_agrees_with_kube_apiserver(verdict: Verdict) -> None:
    assert isinstance(_load(verdict), EncryptionConfiguration) is verdict.ok


WITH_PATH = [verdict for verdict in VERDICTS if verdict.field_path]


@pytest.mark.parametrize("verdict", WITH_PATH, ids=lambda verdict: verdict.name)
def test_names_the_field_that_upstream_names(verdict: Verdict) -> None:
    error = _load(verdict)
    assert isinstance(error, ConfigError)
    assert verdict.field_path in [fault.path for fault in error.faults]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.name)
def test_shows_no_secret(verdict: Verdict) -> None:
    result = _load(verdict)
    shown = repr(result)
    if isinstance(result, ConfigError):
        shown += "".join(traceback.format_exception(result)) + "".join(fault.remedy for fault in result.faults)
        assert result.__cause__ is None
        assert result.__context__ is None
    for secret in SECRET.findall(verdict.yaml):
        assert secret not in shown


def test_every_refusal_says_what_to_do() -> None:
    for error in map(_load, VERDICTS):
        if isinstance(error, ConfigError):
            assert all(fault.message and fault.remedy for fault in error.faults)


def test_reads_what_the_recorded_cluster_ran() -> None:
    raw = (FILE.parent / "kube-apiserver-1.36" / "encryption-config.json").read_bytes()
    (entry,) = load(raw, "encryption-config.json").entries
    assert [provider.type for provider in entry.providers] == [
        "aesgcm", "aescbc", "aescbc", "aesgcm", "secretbox", "kms", "kms", "identity",
    ]  # fmt: skip
