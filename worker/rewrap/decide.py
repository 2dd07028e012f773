"""Decides whether to keep, rewrap or quarantine one stored value. Pure: bytes, keys and a chain in, a verdict out."""

from __future__ import annotations

from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap, Verdict
from kube_rewrap.worker.wrapped import UnwrappedKeys


def decide(stored: bytes, key: bytes, chain: Chain, unwrapped: UnwrappedKeys | None = None) -> Verdict:
    """Return the verdict on the value stored under an etcd key; `unwrapped` as in `Chain.open`.

    A value is current only if the primary opened it: its prefix names a key, but does not prove the material.
    """
    opened = chain.open(stored, key, unwrapped)
    if isinstance(opened, Quarantine):
        return opened
    if opened.is_primary:
        return Keep(opened.ref)
    return Rewrap(opened.ref, opened.plaintext)
