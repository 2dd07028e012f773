"""Decides whether to keep, rewrap or quarantine one stored value. Pure: bytes and a chain in, a verdict out."""

from __future__ import annotations

from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap, Verdict


def decide(stored: bytes, key: bytes, chain: Chain) -> Verdict:
    """Return the verdict on the value stored under an etcd key.

    A value is current only if the primary opened it: its prefix names a key, but does not prove the material.
    """
    opened = chain.open(stored, key)
    if isinstance(opened, Quarantine):
        return opened
    if opened.is_primary:
        return Keep(opened.ref)
    return Rewrap(opened.ref, opened.plaintext)
