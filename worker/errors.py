"""Everything that can go wrong below the scheduler, sorted by what a caller may do about it.

::

    WorkerError
    ├── TemporaryError            the world: try again after `delay` seconds
    │   └── UnavailableError      no endpoint answered within the bound (exit 5)
    ├── PermanentError            trying again changes nothing
    │   ├── RequestRefusedError   etcd understood the request and said no (permission, bad argument)
    │   ├── TooLargeError         the request passes etcd's size limit
    │   ├── CompactedError        the pinned revision is gone; pin a newer one
    │   ├── RecordError           one of our own records can't be understood
    │   ├── SealError             what was sealed did not open to the same bytes; nothing was written
    │   └── RefusedError          refused for safety (exit 4)
    │       ├── BudgetExhaustedError   the key's write budget does not cover the work
    │       ├── SpaceError             etcd's database is, or would be, too full
    │       ├── QuarantineGrewError    more that nothing opens was written than is answered unasked
    │       ├── BusyError              another process holds the campaign
    │       ├── UnsupportedPrimaryError  this tool can't write with the configured primary
    │       └── OutdatedError          the configuration is one that another has taken the place of
    ├── StoppedError              the operator asked to stop; a later run resumes
    └── FencedError               somebody else owns the work now: stop, write nothing more
        └── RecordChangedError    a record, or the lock that guards it, is not what this process last saw
            └── RecordUnclearError   and our own write may have been applied before that
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


class PermanentError(WorkerError):
    """The same call would fail again."""


class RequestRefusedError(PermanentError):
    """etcd understood the request and refused it."""


class TooLargeError(PermanentError):
    """The request, or the answer to it, passes a size limit."""


class CompactedError(PermanentError):
    """The revision that was asked for has been compacted away."""


class RecordError(PermanentError):
    """A record under the state prefix can't be understood."""


class SealError(PermanentError):
    """A sealed value did not open to the bytes that went in. It was not written."""


class RefusedError(PermanentError):
    """Going on would not be safe. Nothing was lost; the message says what to do."""


class BudgetExhaustedError(RefusedError):
    """The write budget of a key does not cover the next encryption."""


class SpaceError(RefusedError):
    """etcd's database is, or would become, too full."""


class QuarantineGrewError(RefusedError):
    """More values that nothing opens were written than a day's campaigns may answer that no operator asked for."""


class BusyError(RefusedError):
    """Another living process owns the campaign."""


class UnsupportedPrimaryError(RefusedError):
    """The configured primary provider is one that this tool can't write with."""


class OutdatedError(RefusedError):
    """The EncryptionConfiguration at hand was in force once, and another one has taken its place since."""


class FencedError(WorkerError):
    """This process no longer owns the work; another one may."""


class RecordChangedError(FencedError):
    """The record, or the lock that guards it, is not what this process last saw."""


class RecordUnclearError(RecordChangedError):
    """As RecordChangedError, but the answer to our write was lost: it may have been applied before."""


class StoppedError(WorkerError):
    """The operator asked to stop. What was in flight is finished; a later run resumes."""
