"""The verdicts on one stored value: keep, rewrap or quarantine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.worker.fields import members_of, text_of

PLAINTEXT_FINGERPRINT = "-"

KMS_FINGERPRINT = "kms"
"""In place of a fingerprint: any key of a KMS provider. The configuration names the provider, a value the key."""

KMS_FORMER_FINGERPRINT = "kms-former"
"""In place of a fingerprint: any key of a KMS provider under which a write is stale."""

_KMS_V1 = {"v1", "v1-cbc"}

NOT_RECOGNISED_DETAIL = "it did not decrypt to a Kubernetes object: the key material is wrong, or the value is damaged"
"""The only detail reported of a value that an unauthenticated cipher did not open."""

_UNAUTHENTICATED = re.compile(r"aescbc:.+? \([0-9a-f]{16}\)", re.DOTALL)


class Reason(StrEnum):
    """Why an object is quarantined. The values are stable: records, logs and JSON hold them.

    `AUTHENTICATION_FAILED` and `NOT_KUBERNETES` are for ciphers that authenticate. For a cipher that does not, every
    failure is `NOT_RECOGNISED`: to distinguish wrong padding from wrong content would reveal plaintext to an attacker.
    """

    UNKNOWN_PREFIX = "unknown_prefix"
    UNKNOWN_BYTES = "unknown_bytes"
    IDENTITY_MISSING = "plaintext_but_no_identity_provider"
    LATE_PLAINTEXT = "plaintext_after_completion"
    NO_SUCH_KEY = "no_key_of_that_name"
    AUTHENTICATION_FAILED = "authentication_failed"
    NOT_KUBERNETES = "not_a_kubernetes_object"
    NOT_RECOGNISED = "not_recognised"
    TOO_LARGE = "too_large_after_encryption"
    KMS_REFUSED = "kms_refused"
    CONTENDED = "changed_too_often"

    @classmethod
    def _missing_(cls, value: object) -> Reason | None:
        """Read the word of records of version 0.1, which opened no KMS value."""
        return cls.KMS_REFUSED if value == "kms_not_supported" else None


@dataclass(frozen=True, slots=True, order=True)
class KeyRef:
    """One key, named without its material.

    `fingerprint` is 16 hexadecimal digits, or `-` for `identity`, which has no key. The keys of a KMS provider are not
    in the file. Its fingerprint is

    - of the key of a value: the digits of its key id in v2, with `-type0` after them for the source type 0; `v1` or,
      under AES-CBC, `v1-cbc` in v1;
    - of a provider in the record of a generation: its version, `v1` or `v2`; in v2, where it writes and its KEK is
      known, the digits of that KEK's key id. `#2` after any of these is of the second provider of its name and version;
    - of a provider as a link of a chain, and in older records of generations: `kms`, for any of its keys.
    """

    provider: str
    name: str
    fingerprint: str

    def to_json(self) -> list[str]:
        """Return the JSON form: `[provider, name, fingerprint]`."""
        return [self.provider, self.name, self.fingerprint]

    @classmethod
    def from_json(cls, value: object) -> KeyRef:
        """Read the JSON form. Raises ValueError if it is malformed."""
        return cls(*(text_of(one, "a key") for one in members_of(value, "a key", 3)))

    @property
    def version(self) -> str:
        """The version of a KMS provider, `v1` or `v2`, with its `#2`; `kms` where it is not known."""
        form, mark, place = self.fingerprint.partition("#")
        if form == KMS_FINGERPRINT:
            return form
        return f"{form[:2] if form in _KMS_V1 else 'v2'}{mark}{place}"

    @property
    def is_kek(self) -> bool:
        """Whether it is of a KMS v2 provider, named by a key id."""
        return self.provider == ProviderType.KMS and self.fingerprint not in {self.version, KMS_FINGERPRINT, "v1-cbc"}

    @property
    def kek(self) -> KeyRef:
        """This key without the source type of its value: for KMS v2, the KEK alone."""
        return replace(self, fingerprint=self.fingerprint.replace("-type0", "", 1))

    @property
    def counted_as(self) -> str:
        """The fingerprint under which writes with this key are counted: those of all KMS providers together.

        Key ids are not authenticated: counted one by one, they would let a writer to etcd fill the memory.
        """
        return KMS_FINGERPRINT if self.provider == ProviderType.KMS else self.fingerprint

    def covers(self, other: KeyRef) -> bool:
        """Whether what is under `other` is under this key: for KMS, under any KEK of a provider of this name."""
        if self.provider == ProviderType.KMS:
            return (self.provider, self.name) == (other.provider, other.name)
        return (self.provider, self.fingerprint) == (other.provider, other.fingerprint)

    def __str__(self) -> str:
        return f"{self.provider}:{self.name} ({self.fingerprint})" if self.name else self.provider


@dataclass(frozen=True, slots=True)
class Keep:
    """The primary key opened the value: write nothing."""

    opened_by: KeyRef


@dataclass(frozen=True, slots=True)
class Rewrap:
    """Another key opened the value, or the primary an outdated one: seal the plaintext under the primary, and swap."""

    opened_by: KeyRef
    plaintext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """No configured key may open the value, or none did: it must stay as it is.

    `claimed` holds the configured keys whose prefix the value carries: any of them may have sealed it. Of a value
    under the name of a configured KMS provider in another version, it holds the provider in the value's version.
    """

    reason: Reason
    detail: str
    claimed: tuple[KeyRef, ...] = ()


Verdict = Keep | Rewrap | Quarantine


def recorded_reason(reason: str, detail: str) -> tuple[Reason, str]:
    """Return a reason and its sentence as read from a record. Raises ValueError for an unknown reason.

    Records of older versions hold the exact reason of an aescbc value; this function replaces it by `NOT_RECOGNISED`.
    """
    known = Reason(reason)
    owner = _UNAUTHENTICATED.match(detail) if known in _TOO_DETAILED else None
    return (Reason.NOT_RECOGNISED, f"{owner[0]}: {NOT_RECOGNISED_DETAIL}") if owner else (known, detail)


_TOO_DETAILED = {Reason.AUTHENTICATION_FAILED, Reason.NOT_KUBERNETES}
