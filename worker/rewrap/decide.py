"""Decides whether to keep, rewrap or quarantine one stored object. Pure: bytes, keys and a chain in, a verdict out."""

from __future__ import annotations

from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap, Verdict
from kube_rewrap.worker.wrapped import UnwrappedKeys


def decide(
    stored: bytes,
    key: bytes,
    chain: Chain,
    unwrapped: UnwrappedKeys | None = None,
    *,
    mod_revision: int = 1,
    kek_since: int = 0,
) -> Verdict:
    """Return the verdict on the value stored under an etcd key; `unwrapped` as in `Chain.open`.

    A value is current only if the primary opened it: its prefix names a key, but does not prove the material. Where a
    KEK was rotated and nothing shows it, its `mod_revision` must also lie after `kek_since` (`Chain.is_outdated`).
    """
    opened = chain.open(stored, key, unwrapped)
    if isinstance(opened, Quarantine):
        return opened
    if opened.is_primary and not chain.is_outdated(mod_revision, kek_since):
        return Keep(opened.ref)
    return Rewrap(opened.ref, opened.plaintext)
