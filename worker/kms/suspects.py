"""Wrapped keys on which a plugin fails as if it were down, while it unwraps others. Pure: times are arguments.

One damaged or forged value must not stop a campaign for ever, and an outage must not quarantine sound objects. So a
key is given up only after `ROUNDS` rounds, `ROUND_SECONDS` apart. In each round the plugin failed on the key, a canary
passed, and the plugin failed on the key again. A round in which the canary fails counts for nothing: that is an outage.

A key that was given up once is given up again after one more round: a later campaign asks again without the wait. As
soon as it is unwrapped, nothing is held against it.

Not handled: a KMS that fails for hours on one KEK alone, under which this process opened nothing, looks like damage.
The objects stay untouched, and the next campaign asks again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from kube_rewrap.worker.wrapped import Plugin, WrappedKey

ROUNDS = 5
ROUND_SECONDS = 45.0
"""Three minutes in all: longer than a KMS takes to fail over, or a plugin's pod to start, and than kube-apiserver
goes on writing without an answer of its plugin."""

MOST = 10_000
"""Keys on record, of some 300 bytes each: as many as a page has objects at most."""

_Name = tuple[Plugin, bytes]


@dataclass(frozen=True, slots=True)
class _Suspect:
    rounds: int
    last: float


class Suspects:
    """The keys of one process on which its plugins failed; beyond `MOST`, the ones that failed longest ago leave."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[_Name, _Suspect] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def is_known(self, wrapped: WrappedKey) -> bool:
        """Whether the plugin failed on the key in a round before, and has not unwrapped it since."""
        return _name(wrapped) in self._known

    def wait(self, wrapped: WrappedKey, now: float) -> float:
        """Return for how many seconds the plugin is not to be asked for the key; 0.0 = it may be asked."""
        # Its name takes milliseconds where it has thousands of annotations.
        known = self._known.get(_name(wrapped)) if self._known else None
        if known is None or known.rounds >= ROUNDS:
            return 0.0
        return max(0.0, known.last + ROUND_SECONDS - now)

    def failed(self, wrapped: WrappedKey, now: float) -> bool:
        """Count a round; return whether the key is to be given up."""
        name = _name(wrapped)
        before = self._known.pop(name, None)
        rounds = min(ROUNDS, 1 + (before.rounds if before else 0))
        self._known[name] = _Suspect(rounds, now)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return rounds == ROUNDS

    def clear(self, wrapped: WrappedKey) -> None:
        """Forget a key that was unwrapped."""
        if self._known:
            self._known.pop(_name(wrapped), None)


def _name(wrapped: WrappedKey) -> _Name:
    """Name a key by its hash: with annotations it may have 32 KiB."""
    return wrapped.plugin, hashlib.sha256(bytes([wrapped.source_type]) + wrapped.full_digest).digest()
