"""Every record path that this service owns, in one place (see docs/records.md).

::

    <state-prefix>/v1/owner                         who runs campaigns now (on a lease)
    <state-prefix>/v1/campaigns/<campaign>          one campaign
    <state-prefix>/v1/batches/<campaign>/<number>   a batch and its checkpoint
    <state-prefix>/v1/quarantine/<campaign>/<hash>  an object that was left alone, and why
    <state-prefix>/v1/ledger/<fingerprint>          the write budget of a key
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from worker.model.keys import KeyRange

VERSION = "v1"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The record paths under one state prefix such as `/kube-rewrap`."""

    state_prefix: str = "/kube-rewrap"

    def _path(self, *parts: str) -> bytes:
        return "/".join((self.state_prefix, VERSION, *parts)).encode()

    @property
    def owner(self) -> bytes:
        """The lock of whoever works on campaigns."""
        return self._path("owner")

    def campaign(self, campaign: str) -> bytes:
        """Return the path of one campaign."""
        return self._path("campaigns", campaign)

    @property
    def campaigns(self) -> KeyRange:
        """All campaigns, oldest first: their names begin with the time of their planning."""
        return KeyRange.of_prefix(self._path("campaigns", ""))

    def batch(self, campaign: str, number: int) -> bytes:
        """Return the path of one batch. The number is padded so that keys sort as numbers do."""
        return self._path("batches", campaign, f"{number:08d}")

    @property
    def of_campaigns(self) -> tuple[KeyRange, KeyRange]:
        """Return where the records that belong to campaigns lie, by campaign: batches, and quarantine."""
        return KeyRange.of_prefix(self._path("batches", "")), KeyRange.of_prefix(self._path("quarantine", ""))

    def batches(self, campaign: str) -> KeyRange:
        """Return where the batches of a campaign lie, in their order."""
        return KeyRange.of_prefix(self._path("batches", campaign, ""))

    def quarantined(self, campaign: str, etcd_key: bytes) -> bytes:
        """Return the path of one quarantined object. Its key is hashed: etcd keys may be long and hold any bytes."""
        return self._path("quarantine", campaign, hashlib.sha256(etcd_key).hexdigest()[:32])

    def quarantine(self, campaign: str) -> KeyRange:
        """Return where the quarantined objects of a campaign lie."""
        return KeyRange.of_prefix(self._path("quarantine", campaign, ""))

    def ledger(self, fingerprint: str) -> bytes:
        """Return the path of one key's budget."""
        return self._path("ledger", fingerprint)

    @property
    def ledgers(self) -> KeyRange:
        """All budgets."""
        return KeyRange.of_prefix(self._path("ledger", ""))
