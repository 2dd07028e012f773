"""What to do with one stored value. Pure: bytes and a chain in, a verdict out."""

from __future__ import annotations

from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap, Verdict


def decide(stored: bytes, key: bytes, chain: Chain) -> Verdict:
    """Judge what is stored under an etcd key.

    Current means that the primary opened it: a prefix proves a name, not key material.
    """
    opened = chain.open(stored, key)
    if isinstance(opened, Quarantine):
        return opened
    if opened.is_primary:
        return Keep(opened.ref)
    return Rewrap(opened.ref, opened.plaintext)
