"""The etcd keys of all records that this service owns (see docs/records.md).

::

    <state-prefix>/v1/owner                         the lock of the process that runs campaigns (on a lease)
    <state-prefix>/v1/leader                        the lock of the leading scheduler (on a lease)
    <state-prefix>/v1/campaigns/<campaign>          one campaign
    <state-prefix>/v1/batches/<campaign>/<number>   a batch and its checkpoint
    <state-prefix>/v1/claims/<campaign>/<number>    a worker's claim on a batch (on a lease)
    <state-prefix>/v1/proofs/<campaign>/<number>    a part of a campaign's proof scan
    <state-prefix>/v1/quarantine/<campaign>/<hash>  an object that a worker did not rewrap, and why
    <state-prefix>/v1/ledger/<fingerprint>          the write budget of a key
    <state-prefix>/v1/requests/<id>                 a request to the scheduler
    <state-prefix>/v1/generation                    the configuration that the scheduler acted on last, without keys
    <state-prefix>/v1/scan                          the last scan of everything
    <state-prefix>/v1/observer                      the watch's place, and its counts
    <state-prefix>/v1/usage                         the rates of writes under each key
    <state-prefix>/v1/tries                         object versions of the last day that no key opened
    <state-prefix>/v1/rotations/<id>                a key rotation
    <state-prefix>/v1/assumption                    an operator's statement that all kube-apiservers run a configuration
    <state-prefix>/v1/keks/<hash>                   the key-encryption key of a KMS provider
    <state-prefix>/v1/handbacks/<worker>            a worker that holds another configuration (on a lease)
    <state-prefix>/v1/audit-head                    the newest entry of the audit log
    <state-prefix>/v1/audit/<number>                one entry of the audit log
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kube_rewrap.worker.etcd.ranges import KeyRange

VERSION = "v1"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The record paths under one state prefix such as `/kube-rewrap`."""

    state_prefix: str = "/kube-rewrap"

    def _path(self, *parts: str) -> bytes:
        return "/".join((self.state_prefix, VERSION, *parts)).encode()

    @property
    def everything(self) -> KeyRange:
        """All records."""
        return KeyRange.of_prefix(self._path(""))

    @property
    def owner(self) -> bytes:
        """The lock of the process that runs campaigns."""
        return self._path("owner")

    @property
    def leader(self) -> bytes:
        """The lock of the leading scheduler."""
        return self._path("leader")

    def campaign(self, campaign: str) -> bytes:
        """Return the path of one campaign."""
        return self._path("campaigns", campaign)

    @property
    def campaigns(self) -> KeyRange:
        """All campaigns, oldest first: each name begins with the time of planning."""
        return KeyRange.of_prefix(self._path("campaigns", ""))

    def batch(self, campaign: str, number: int) -> bytes:
        """Return the path of one batch. The padded number makes keys sort as numbers do."""
        return self._path("batches", campaign, f"{number:08d}")

    @property
    def of_campaigns(self) -> tuple[KeyRange, ...]:
        """Return the ranges of batches, proofs and quarantines; in each, a campaign's records share a prefix."""
        batches_and_proofs = (KeyRange.of_prefix(self._path(kind, "")) for kind in ("batches", "proofs"))
        return (*batches_and_proofs, self.quarantines)

    @property
    def quarantines(self) -> KeyRange:
        """The quarantined objects of all campaigns."""
        return KeyRange.of_prefix(self._path("quarantine", ""))

    def claim(self, campaign: str, number: int) -> bytes:
        """Return the path of the claim on one batch."""
        return self._path("claims", campaign, f"{number:08d}")

    def claims(self, campaign: str) -> KeyRange:
        """Return the range of the claims on a campaign's batches, in their order."""
        return KeyRange.of_prefix(self._path("claims", campaign, ""))

    def proof(self, campaign: str, number: int) -> bytes:
        """Return the path of one part of a proof scan."""
        return self._path("proofs", campaign, f"{number:08d}")

    def proofs(self, campaign: str) -> KeyRange:
        """Return the range of the parts of a campaign's proof scan, in their order."""
        return KeyRange.of_prefix(self._path("proofs", campaign, ""))

    def batches(self, campaign: str) -> KeyRange:
        """Return the range of a campaign's batches, in their order."""
        return KeyRange.of_prefix(self._path("batches", campaign, ""))

    def quarantined(self, campaign: str, etcd_key: bytes) -> bytes:
        """Return the path of one quarantined object. It has the object's key hashed: keys may be long, of any bytes."""
        return self._path("quarantine", campaign, hashlib.sha256(etcd_key).hexdigest()[:32])

    def quarantine(self, campaign: str) -> KeyRange:
        """Return the range of a campaign's quarantined objects."""
        return KeyRange.of_prefix(self._path("quarantine", campaign, ""))

    def ledger(self, fingerprint: str) -> bytes:
        """Return the path of one key's budget."""
        return self._path("ledger", fingerprint)

    @property
    def ledgers(self) -> KeyRange:
        """All budgets."""
        return KeyRange.of_prefix(self._path("ledger", ""))

    def request(self, name: str) -> bytes:
        """Return the path of one request."""
        return self._path("requests", name)

    @property
    def requests(self) -> KeyRange:
        """All requests."""
        return KeyRange.of_prefix(self._path("requests", ""))

    @property
    def generation(self) -> bytes:
        """The configuration that the scheduler acted on last."""
        return self._path("generation")

    @property
    def scan(self) -> bytes:
        """The last scan of everything."""
        return self._path("scan")

    def rotation(self, name: str) -> bytes:
        """Return the path of one rotation."""
        return self._path("rotations", name)

    @property
    def rotations(self) -> KeyRange:
        """All rotations, oldest first: each name begins with the time of the start."""
        return KeyRange.of_prefix(self._path("rotations", ""))

    @property
    def assumption(self) -> bytes:
        """An operator's last statement about what the kube-apiservers run."""
        return self._path("assumption")

    @property
    def observer(self) -> bytes:
        """The watch's place, and its counts."""
        return self._path("observer")

    @property
    def usage(self) -> bytes:
        """The rates of writes under each key."""
        return self._path("usage")

    @property
    def tries(self) -> bytes:
        """The object versions of the last day that no key opened."""
        return self._path("tries")

    def kek(self, provider: str) -> bytes:
        """Return the path of a KMS provider's KEK. It has the name hashed: names may be long, of any characters."""
        return self._path("keks", hashlib.sha256(provider.encode()).hexdigest()[:32])

    @property
    def keks(self) -> KeyRange:
        """The KEKs of all KMS providers."""
        return KeyRange.of_prefix(self._path("keks", ""))

    def handback(self, worker: str) -> bytes:
        """Return the path where a worker records that it holds another configuration."""
        return self._path("handbacks", worker)

    @property
    def handbacks(self) -> KeyRange:
        """The handbacks of all workers."""
        return KeyRange.of_prefix(self._path("handbacks", ""))

    @property
    def audit_head(self) -> bytes:
        """The newest entry of the audit log: its number and hash."""
        return self._path("audit-head")

    def audit_entry(self, number: int) -> bytes:
        """Return the path of one entry of the audit log. The padded number makes keys sort as numbers do."""
        return self._path("audit", f"{number:012d}")

    @property
    def audit(self) -> KeyRange:
        """All entries of the audit log."""
        return KeyRange.of_prefix(self._path("audit", ""))
