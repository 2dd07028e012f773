"""Errors raised below the scheduler, sorted by what a caller may do about them.

::

    WorkerError
    ├── TemporaryError            a passing condition: try again after `delay` seconds
    │   ├── UnavailableError      no endpoint answered within the bound (exit 5)
    │   └── KmsUnavailableError   a KMS plugin or its KMS does not work now; nothing is wrong with any object
    │       └── KmsSourceError    a KMS plugin fails on one key and unwraps others; it is asked again for a while
    ├── PermanentError            trying again changes nothing
    │   ├── RequestRefusedError   etcd understood the request and refused it (permission, bad argument)
    │   ├── TooLargeError         the request exceeds etcd's size limit
    │   ├── CompactedError        etcd compacted the pinned revision away; pin a newer one
    │   ├── RecordError           a record under the state prefix can't be parsed
    │   ├── BackupError           a backup is damaged, or not one of etcd
    │   ├── SealError             a sealed value did not open to the same bytes; it was not written
    │   ├── KmsUndecidedError     a KMS plugin failed, and its answer does not tell whether it or the key is to blame
    │   └── RefusedError          refused for safety (exit 4)
    │       ├── BudgetExhaustedError   the key's write budget does not cover the work
    │       ├── SpaceError             etcd's database is, or would be, too full
    │       ├── QuarantineGrewError    too many new values that no key opens, and no operator asked
    │       ├── KmsRefusedError        a KMS plugin can't serve: other version, no permission, unhealthy, another key id
    │       ├── BusyError              another process holds the lock
    │       ├── UnsupportedPrimaryError  this tool can't write with the configured primary
    │       └── OutdatedError          another configuration has replaced this one
    ├── StoppedError              asked to stop, as by a signal or a pause; a later run resumes
    └── FencedError               another process may own the work: stop, write nothing more
        ├── KmsTargetError        the plugin beside this process names another key id than the campaign's target
        └── RecordChangedError    a record, or the lock that guards it, changed since this process read it
            └── RecordUnclearError   and our own write may have been applied before the change
"""

from __future__ import annotations


class WorkerError(Exception):
    """Root of everything that `worker` raises on purpose."""


class TemporaryError(WorkerError):
    """The same call may succeed later; `delay` is the advised wait in seconds."""

    def __init__(self, message: str, *, delay: float = 0.1) -> None:
        super().__init__(message)
        self.delay = delay


class UnavailableError(TemporaryError):
    """No endpoint gave an answer within the bound."""


class KmsUnavailableError(TemporaryError):
    """A KMS plugin, or the KMS behind it, does not work now."""

    plugin_text: str = ""
    """What the plugin said, cut and escaped, for `inspect` alone: never for logs or records."""


class KmsSourceError(KmsUnavailableError):
    """A KMS plugin fails on wrapped keys while it unwraps others. After `delay` seconds, it is to be asked again."""


class PermanentError(WorkerError):
    """The same call would fail again."""


class RequestRefusedError(PermanentError):
    """etcd understood the request and refused it."""


class TooLargeError(PermanentError):
    """The request, or its answer, exceeds a size limit."""


class CompactedError(PermanentError):
    """etcd has compacted the requested revision away."""


class RecordError(PermanentError):
    """A record under the state prefix can't be parsed, or contradicts others."""


class BackupError(PermanentError):
    """A backup is damaged, torn or not one of etcd; the message has the file, the page where there is one, and why."""


class SealError(PermanentError):
    """A sealed value did not open to the same bytes. It was not written."""


class KmsUndecidedError(PermanentError):
    """A KMS plugin failed to unwrap, in a way that a damaged key, throttling and a disabled KEK share."""

    plugin_text: str = ""
    """What the plugin said, cut and escaped, for `inspect` alone: never for logs or records."""


class RefusedError(PermanentError):
    """To continue would not be safe. Nothing was lost; the message says what to do."""


class BudgetExhaustedError(RefusedError):
    """The write budget of a key does not cover the next encryption."""


class SpaceError(RefusedError):
    """etcd's database is, or would become, too full."""


class QuarantineGrewError(RefusedError):
    """Campaigns that no operator asked for met more new values that no key opens than a day allows."""


class KmsRefusedError(RefusedError):
    """A KMS plugin can't be used until an operator acts; campaigns rest meanwhile."""

    plugin_text: str = ""
    """What the plugin said, cut and escaped, for `inspect` alone: never for logs or records."""


class BusyError(RefusedError):
    """Another living process holds the lock on campaigns, or the claim on a batch."""


class UnsupportedPrimaryError(RefusedError):
    """This tool can't write with the configured primary provider."""


class OutdatedError(RefusedError):
    """The EncryptionConfiguration at hand was in force earlier, and another one has replaced it since."""


class FencedError(WorkerError):
    """This process no longer owns the work; another one may."""


class KmsTargetError(FencedError):
    """The plugin beside this process names another key id than the campaign's target; hand the batch back."""


class RecordChangedError(FencedError):
    """The record, or the lock that guards it, changed since this process read it."""


class RecordUnclearError(RecordChangedError):
    """As RecordChangedError, but the answer to our write was lost: etcd may have applied it before the change."""


class StoppedError(WorkerError):
    """A signal, the end of a slice or a change of the campaign stopped the work; a later run resumes."""
