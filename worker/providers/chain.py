"""The provider chain: opens a value with any key, reports which key opened it, and seals with the first key.

Follows kubernetes/apiserver pkg/storage/value/transformer.go:

1. `open` tries, in configured order, every key whose prefix the value has; after a failure it tries the next match.
   Two keys with the same name are legal, and it tries both.
2. `identity` has the empty prefix and refuses encrypted values; then `open` tries the later keys.
3. `seal` uses the first key of the first provider, the primary. A value is current when the primary opened it,
   which proves the key material, not just the name.
4. Values of KMS providers open with keys that a plugin unwrapped before: `wanted` names them, the caller fetches them,
   and `open` gets them. They are stale unless the first provider opened them, by AES-GCM in v1; in v2, with source
   type 1 under the *target*, the key id that the caller handed in. Another source under that key id is current.

Beyond upstream: an opened value must also be a Kubernetes object, else `open` tries the next match; and `seal` opens
its result again and compares it before it returns it. For a cipher that does not authenticate, a verdict never
contains why a key failed: see `aescbc.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.configuration import Provider, ProviderType
from kube_rewrap.worker.errors import KmsRefusedError, SealError, UnsupportedPrimaryError
from kube_rewrap.worker.providers import envelope
from kube_rewrap.worker.providers.cipher import OpenError
from kube_rewrap.worker.providers.links import KmsLink, Link, UnrecognisedError, links_of
from kube_rewrap.worker.providers.plaintext import is_kubernetes_object
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, KeyRef, Quarantine, Reason
from kube_rewrap.worker.wrapped import DataKey, Plugin, UnwrappedKeys, WrappedKey

_LATE = (
    "plaintext, though a campaign had left none of this resource: not written by a kube-apiserver that is up to date"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A plaintext, the key that opened it, and whether that key is the primary."""

    plaintext: bytes = field(repr=False)
    ref: KeyRef
    is_primary: bool


class Chain:
    """The providers of one resource, in configured order."""

    def __init__(
        self,
        providers: Iterable[Provider],
        *,
        plaintext_is_late: bool = False,
        targets: Mapping[str, str] | None = None,
    ) -> None:
        """Build the chain. Raises ValueError when it has no key.

        `plaintext_is_late`: a proof found no plaintext in this resource before, so `open` returns Quarantine for
        plaintext although identity could read it, unless identity is the primary. `targets`: the key ids to write
        under, by name of the KMS v2 provider, as far as they are known; None = nothing is written with KMS.
        """
        self._plaintext_is_late = plaintext_is_late
        self._writes_kms = targets is not None
        links = tuple(links_of(providers, targets or {}))
        self._links: tuple[Link, ...] = links
        self._kms = tuple(link for link in links if isinstance(link, KmsLink))
        if not links:
            raise ValueError("a chain needs at least one provider")
        self._known = {_provider_prefix(link) for link in links} - {b""}

    def __repr__(self) -> str:
        return f"Chain({', '.join(str(ref) for ref in self.keys)})"

    @property
    def primary(self) -> KeyRef:
        """The key that writes; values that it opened are current.

        For KMS v2 the key under the target key id. While the target is unknown, its fingerprint is the word `kms`,
        which that of no value's key is: then nothing passes for current.
        """
        return self._links[0].writes_as

    @property
    def keys(self) -> tuple[KeyRef, ...]:
        """All keys of the configuration in the order in which `open` tries them; a KMS provider is one."""
        return tuple(link.ref for link in self._links)

    @property
    def described(self) -> tuple[KeyRef, ...]:
        """`keys` as the record of a generation names them: KMS providers by version, or by the KEK to write under."""
        return tuple(link.described for link in self._links)

    @property
    def kms_primary(self) -> tuple[Plugin, str] | None:
        """The plugin that makes the data keys to seal with, and the target key id ("" in v1); None without KMS."""
        first = self._links[0]
        return (first.plugin, first.target or "") if isinstance(first, KmsLink) else None

    def is_outdated(self, mod_revision: int, kek_since: int) -> bool:
        """Whether an object that the primary opened is to be rewritten all the same.

        True under a KMS primary for an object last written at or before the revision `kek_since`, since which the
        plugins have wrapped with the present KEK, though the stored bytes do not show it. With 0, none is.
        """
        return mod_revision <= kek_since and self.kms_primary is not None

    def is_stale(self, key: KeyRef) -> bool:
        """Whether values under a key are to be rewritten. Of a KMS primary with an unknown target, none is."""
        primary = self.primary
        if primary.fingerprint == KMS_FINGERPRINT:
            return (key.provider, key.name) != (primary.provider, primary.name)
        return key != primary

    def require_writable(self) -> None:
        """Raise UnsupportedPrimaryError when the primary is a KMS provider, and rewrap writes with none.

        Raises KmsRefusedError when it is one of v2 whose target key id is unknown.
        """
        first = self._links[0]
        if not isinstance(first, KmsLink):
            return
        if not self._writes_kms:
            raise UnsupportedPrimaryError(
                f"the primary provider is KMS ({self.primary.name!r}), which this version does not write with; "
                "make a local provider the first one, or leave this resource to kube-apiserver"
            )
        if first.plugin.version == "v2" and first.target is None:
            raise KmsRefusedError(
                f"the primary provider is KMS ({self.primary.name!r}), and the key id to write under is not known yet"
            )

    def wanted(self, stored: bytes) -> tuple[WrappedKey, ...]:
        """Return the wrapped keys that plugins must unwrap before `open`, one for each KMS link that matches."""
        matching = ((link, stored[len(link.prefix) :]) for link in self._kms if stored.startswith(link.prefix))
        return tuple(wrapped for link, body in matching if (wrapped := link.wanted(body)) is not None)

    def all_wanted(self, values: Iterable[bytes]) -> tuple[WrappedKey, ...]:
        """Return the wrapped keys of all these values, each once."""
        if not self._kms:
            return ()
        return tuple(dict.fromkeys(wrapped for stored in values for wrapped in self.wanted(stored)))

    def wanted_apart(
        self, closed: Collection[bytes], opened: Iterable[bytes], unwrapped: UnwrappedKeys
    ) -> tuple[Collection[WrappedKey], Collection[WrappedKey]]:
        """Return the wrapped keys of values that did not open, and of those that did; `unwrapped` has those of both.

        The values are parsed once more only where some did not open.
        """
        return (self.all_wanted(closed), self.all_wanted(opened)) if closed else ((), unwrapped)

    def peek(self, stored: bytes) -> KeyRef | None:
        """Return the key that a value under a configured KMS provider names; None for other and malformed values.

        Nothing is opened, so nothing is proven. Of v1, it does not show whether AES-GCM or AES-CBC sealed the value.
        """
        for link in self._kms:
            if stored.startswith(link.prefix) and (wrapped := link.wanted(stored[len(link.prefix) :])) is not None:
                return link.claim(wrapped)
        return None

    def open(self, stored: bytes, key: bytes, unwrapped: UnwrappedKeys | None = None) -> Opened | Quarantine:
        """Open a value stored under the etcd key `key`.

        Returns the plaintext if it is a Kubernetes object, else the reason why no key opened one. `unwrapped` holds
        the plugins' answers for all of `wanted`; raises LookupError if it lacks one that is needed.
        """
        failures: list[Quarantine] = []
        for link in self._links:
            if not stored.startswith(link.prefix):
                continue
            try:
                plaintext, ref = link.open(stored[len(link.prefix) :], key, unwrapped or {})
            except OpenError as error:
                failures += _failed(link, error)
                continue
            if self._plaintext_is_late and not link.prefix and link is not self._links[0]:
                failures.append(Quarantine(Reason.LATE_PLAINTEXT, _LATE, (link.ref,)))
                continue
            return Opened(plaintext, ref, link is self._links[0] and ref == link.writes_as)
        if not failures:
            return self._unmatched(stored)
        # The first failure is that of the first configured key with this prefix: the likeliest to have written it.
        # One that a plugin refused comes last: a value on which another key was tried counts as a try.
        first = min(failures, key=lambda one: one.reason is Reason.KMS_REFUSED)
        return replace(first, claimed=tuple(ref for failure in failures for ref in failure.claimed))

    def seal(self, plaintext: bytes, key: bytes, data_key: DataKey | None = None) -> bytes:
        """Return the value to store under the etcd key `key`, sealed by the primary with a fresh nonce.

        The caller must hold a write token for the primary; for a KMS primary, it hands in a `data_key`: in v1 a new one
        for each call. Raises SealError when the sealed bytes do not open to the same plaintext, KmsRefusedError for a
        data key under a key id other than the target; then nothing may be written. Raises ValueError for a data key
        that is missing, or of another plugin.
        """
        link = self._links[0]
        body = link.seal(plaintext, key, data_key)
        try:
            proven = link.reopen(body, key, data_key) == plaintext
        except OpenError:
            proven = False
        if not proven:
            raise SealError(f"{self.primary} sealed a value that does not open to the same bytes; nothing was written")
        return link.prefix + body

    def _unmatched(self, stored: bytes) -> Quarantine:
        if not stored.startswith(envelope.ENCRYPTED):
            if is_kubernetes_object(stored):
                return Quarantine(Reason.IDENTITY_MISSING, "plaintext, and identity is not among the providers")
            return Quarantine(Reason.UNKNOWN_BYTES, "no encryption prefix, and not a Kubernetes object")
        head = envelope.readable_head(stored)
        for link in self._kms:
            version = "v1" if link.plugin.version == "v2" else "v2"
            if stored.startswith(envelope.key_prefix(ProviderType.KMS, link.plugin.name, version)):
                detail = f"the KMS provider of the name in {head} is configured as another version"
                claimed = KeyRef(ProviderType.KMS, link.plugin.name, version)
                return Quarantine(Reason.UNKNOWN_PREFIX, detail, (claimed,))
        if any(stored.startswith(prefix) for prefix in self._known):
            return Quarantine(Reason.NO_SUCH_KEY, f"no key of the name in {head} is configured for this provider")
        return Quarantine(Reason.UNKNOWN_PREFIX, f"no provider is configured for {head}")


def _provider_prefix(link: Link) -> bytes:
    version = link.plugin.version if isinstance(link, KmsLink) else "v1"
    return envelope.provider_prefix(ProviderType(link.ref.provider), version)


def _failed(link: Link, error: OpenError) -> list[Quarantine]:
    """Return why a matching key failed; nothing for identity's refusal of an encrypted value."""
    is_unrecognised = isinstance(error, UnrecognisedError)
    if not link.prefix:
        garbage = Quarantine(Reason.UNKNOWN_BYTES, "no encryption prefix, and not a Kubernetes object")
        return [garbage] if is_unrecognised else []
    if is_unrecognised:
        detail = f"{link.ref} opened it, but what came out is not a Kubernetes object"
        return [Quarantine(Reason.NOT_KUBERNETES, detail, (link.ref,))]
    return [Quarantine(link.reason_of(error), f"{link.ref}: {error}", (link.ref,))]
