"""Which error ends with which exit code: every error class there is."""

from __future__ import annotations

import pytest

from kube_rewrap.cli.exit_codes import Exit, exit_of
from kube_rewrap.config import errors as config_errors
from kube_rewrap.worker import errors as worker_errors
from kube_rewrap.worker.etcd.compat import IncompatibleClientError

CODES: dict[type[BaseException], Exit] = {
    config_errors.ConfigError: Exit.USAGE,
    config_errors.SourceError: Exit.USAGE,
    config_errors.DocumentError: Exit.USAGE,
    config_errors.EncryptionConfigError: Exit.USAGE,
    config_errors.SettingsError: Exit.USAGE,
    worker_errors.RequestRefusedError: Exit.USAGE,
    worker_errors.StoppedError: Exit.INCOMPLETE,
    worker_errors.CompactedError: Exit.INCOMPLETE,
    worker_errors.BackupError: Exit.INCOMPLETE,
    worker_errors.RefusedError: Exit.REFUSED,
    worker_errors.BudgetExhaustedError: Exit.REFUSED,
    worker_errors.SpaceError: Exit.REFUSED,
    worker_errors.QuarantineGrewError: Exit.REFUSED,
    worker_errors.BusyError: Exit.REFUSED,
    worker_errors.OutdatedError: Exit.REFUSED,
    worker_errors.UnsupportedPrimaryError: Exit.REFUSED,
    worker_errors.FencedError: Exit.REFUSED,
    worker_errors.RecordChangedError: Exit.REFUSED,
    worker_errors.RecordUnclearError: Exit.REFUSED,
    worker_errors.TemporaryError: Exit.UNREACHABLE,
    worker_errors.UnavailableError: Exit.UNREACHABLE,
    worker_errors.KmsUnavailableError: Exit.UNREACHABLE,
    worker_errors.KmsSourceError: Exit.UNREACHABLE,
    worker_errors.KmsRefusedError: Exit.REFUSED,
    worker_errors.KmsTargetError: Exit.REFUSED,
    worker_errors.KmsUndecidedError: Exit.UNEXPECTED,
    worker_errors.WorkerError: Exit.UNEXPECTED,
    worker_errors.PermanentError: Exit.UNEXPECTED,
    worker_errors.TooLargeError: Exit.UNEXPECTED,
    worker_errors.RecordError: Exit.UNEXPECTED,
    worker_errors.SealError: Exit.UNEXPECTED,
    ValueError: Exit.UNEXPECTED,
    OSError: Exit.UNEXPECTED,
    IncompatibleClientError: Exit.UNEXPECTED,
}


def make(kind: type[BaseException]) -> BaseException:
    if issubclass(kind, config_errors.ConfigError):
        return kind("file", (config_errors.Fault("path", "message", "remedy"),))
    return kind("message")


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=[kind.__name__ for kind in CODES])
def test_the_exit_code_of_an_error(kind: type[BaseException], code: Exit) -> None:
    assert exit_of(make(kind)) is code


def test_the_table_holds_every_error_that_we_raise_on_purpose() -> None:
    ours = {
        kind
        for module in (config_errors, worker_errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert ours <= set(CODES)


def test_the_codes_are_those_of_the_documentation() -> None:
    assert {code.name: code.value for code in Exit} == {
        "DONE": 0, "UNEXPECTED": 1, "USAGE": 2, "INCOMPLETE": 3, "REFUSED": 4, "UNREACHABLE": 5,
    }  # fmt: skip
