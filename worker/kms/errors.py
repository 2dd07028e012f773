"""Maps gRPC's status codes to our three classes of KMS errors; no other module does.

Codes tell little: plugins in Go return plain errors, so throttling, a disabled KEK and a damaged key are all UNKNOWN.
"""

from __future__ import annotations

import grpc

from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError

KmsError = KmsUnavailableError | KmsRefusedError | KmsUndecidedError

_Code = grpc.StatusCode

_LONGEST_TEXT = 300
_CUT_HERE = "larger than max"
"""In the text of grpc's own RESOURCE_EXHAUSTED, for an answer that exceeds the channel's limit."""

_BY_CODE: dict[grpc.StatusCode, tuple[type[KmsError], str]] = {
    _Code.UNAVAILABLE: (KmsUnavailableError, "is not available"),
    _Code.DEADLINE_EXCEEDED: (KmsUnavailableError, "did not answer in time"),
    _Code.RESOURCE_EXHAUSTED: (KmsUnavailableError, "is overloaded or throttled"),
    _Code.ABORTED: (KmsUnavailableError, "aborted the call"),
    _Code.CANCELLED: (KmsUnavailableError, "cancelled the call"),
    _Code.INTERNAL: (KmsUnavailableError, "failed, or the connection to it broke"),
    _Code.UNIMPLEMENTED: (KmsRefusedError, "does not offer the call; does the stanza have the plugin's apiVersion?"),
    _Code.UNAUTHENTICATED: (KmsRefusedError, "is not authenticated at its KMS"),
    _Code.PERMISSION_DENIED: (KmsRefusedError, "has no permission for the call"),
    _Code.FAILED_PRECONDITION: (KmsRefusedError, "can't serve the call in its state"),
    _Code.UNKNOWN: (KmsUndecidedError, "failed without a reason that gRPC knows"),
    _Code.INVALID_ARGUMENT: (KmsUndecidedError, "refused the arguments"),
    _Code.NOT_FOUND: (KmsUndecidedError, "did not find what the call needs"),
    _Code.ALREADY_EXISTS: (KmsUndecidedError, "failed with a code that fits no call"),
    _Code.OUT_OF_RANGE: (KmsUndecidedError, "refused the arguments as out of range"),
    _Code.DATA_LOSS: (KmsUndecidedError, "reports data loss"),
    _Code.OK: (KmsUndecidedError, "answered OK where an error was expected"),
}


def translate(code: grpc.StatusCode, details: str, subject: str, method: str) -> KmsError:
    """Return our error for a failed call of `method`; total over all codes. `subject` names the provider.

    The message is ours. The plugin's text, cut and escaped, is in `plugin_text` alone.
    """
    kind, what = _BY_CODE[code]
    if code is _Code.RESOURCE_EXHAUSTED and _CUT_HERE in details:
        kind, what = KmsUndecidedError, "gave an answer that is larger than any valid one"
    error = kind(f"{subject} {what} ({method})")
    error.plugin_text = extract(details)
    return error


def extract(text: str) -> str:
    """Return the start of untrusted text as printable ASCII, for an operator's terminal."""
    return ascii(text[:_LONGEST_TEXT])[1:-1][:_LONGEST_TEXT]
