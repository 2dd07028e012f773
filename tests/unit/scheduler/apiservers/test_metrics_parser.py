"""Parses what a kube-apiserver's /metrics report of its configuration: by labels, among other metrics."""

from __future__ import annotations

import hashlib

import pytest

from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.scheduler.apiservers.metrics_parser import Report, parse_reports
from tests.golden.convergence_recording import CONFIGURATION, CONFIGURATION_AFTER, ID_HASH, METRICS, METRICS_AFTER

INFO = "apiserver_encryption_config_controller_last_config_info"
RELOADED = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


A, B, X, Y = sha("a"), sha("b"), sha("x"), sha("y")


def parse(*lines: str) -> tuple[Report, ...]:
    return parse_reports(line.encode() for line in lines)


def test_the_recording_before_a_reload_has_the_hash_of_the_file() -> None:
    assert parse_reports(METRICS.splitlines()) == (Report(ID_HASH, (content_hash(CONFIGURATION),)),)


def test_the_recording_after_a_reload_has_the_new_hash_and_the_time() -> None:
    [report] = parse_reports(METRICS_AFTER.splitlines())
    assert report == Report(ID_HASH, (content_hash(CONFIGURATION_AFTER),), 1795409159.5189047)
    assert not report.is_failing


@pytest.mark.parametrize(
    ("lines", "reports"),
    [
        pytest.param((), (), id="nothing"),
        pytest.param((f'apiserver_request_total{{hash="{X}"}} 1', f"# HELP {INFO} words", ""), (), id="other metrics"),
        pytest.param(
            (f'{INFO}{{hash="{X}",apiserver_id_hash="{A}"}} 1',), (Report(A, (X,)),), id="labels in another order"
        ),
        pytest.param(
            (f'{INFO} {{ apiserver_id_hash = "{A}" , hash="{X}" , }} 1',), (), id="not as Go's library writes it"
        ),
        pytest.param(
            (f'{INFO}{{apiserver_id_hash="{A}",hash="{X}",note="a\\"b}},\\\\"}} 1 1700000000000\r',),
            (Report(A, (X,)),),
            id="escapes, another label, a time, CR",
        ),
        pytest.param(
            (f'{INFO}{{apiserver_id_hash="{A}",hash="{X}"}} 0', f'{INFO}{{apiserver_id_hash="{A}",hash="{Y}"}} 1'),
            (Report(A, (Y,)),),
            id="a series that is over",
        ),
        pytest.param(
            (f'{INFO}{{apiserver_id_hash="{A}",hash="{Y}"}} 1', f'{INFO}{{apiserver_id_hash="{A}",hash="{X}"}} 1'),
            (Report(A, tuple(sorted((X, Y)))),),
            id="two that contradict each other",
        ),
        pytest.param(
            (f'{INFO}{{apiserver_id_hash="{A}",hash="{X}"}} 1', f'{INFO}{{apiserver_id_hash="{B}",hash="{Y}"}} 1'),
            tuple(sorted((Report(A, (X,)), Report(B, (Y,))), key=lambda report: report.id)),
            id="two ids",
        ),
        pytest.param((f'{INFO}{{apiserver_id_hash="",hash="{X}"}} 1',), (Report("", (X,)),), id="no identity"),
        pytest.param(
            (
                f'{RELOADED}{{apiserver_id_hash="{A}",status="success"}} 1.5e+09',
                f'{RELOADED}{{apiserver_id_hash="{A}",status="failure"}} 1.6e+09',
            ),
            (Report(A, (), 1.5e9, 1.6e9),),
            id="before v1.34",
        ),
    ],
)
def test_what_lines_say(lines: tuple[str, ...], reports: tuple[Report, ...]) -> None:
    assert parse(*lines) == reports


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param(f"{INFO}{{", "is not in Prometheus' text format", id="cut off"),
        pytest.param(
            f'{INFO}{{apiserver_id_hash="{A}",hash="{X}"}} one', "is not in Prometheus' text format", id="no number"
        ),
        pytest.param(f'{RELOADED}{{apiserver_id_hash="{A}",status="success"}} NaN', "is NaN", id="NaN"),
        pytest.param(f'{INFO}{{apiserver_id_hash="{A}",hash="zzz"}} 1', "hash is not a hash", id="no hash"),
        pytest.param(f'{INFO}{{hash="{X}"}} 1', "apiserver_id_hash is not a hash", id="no id"),
        pytest.param(f'{INFO}{{hash="{X}"apiserver_id_hash="{A}"}} 1', "labels of", id="no comma"),
        pytest.param(f'{INFO}{{hash="{X}",hash="{Y}"}} 1', "labels of", id="a label twice"),
    ],
)
def test_a_line_that_is_not_as_it_should_be_is_refused(line: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse(line)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="is not in Prometheus' text format"):
        parse_reports([INFO.encode() + b"{\xff} 1"])


@pytest.mark.parametrize(
    ("succeeded", "failed", "is_failing"),
    [
        (None, None, False),
        (None, 1.0, True),
        (1.0, None, False),
        (1.0, 2.0, True),
        (2.0, 1.0, False),
        (1.0, 1.0, False),
    ],
)
def test_it_is_failing_when_the_failure_is_the_later_one(
    succeeded: float | None, failed: float | None, is_failing: bool
) -> None:
    assert Report(A, (), succeeded, failed).is_failing is is_failing
