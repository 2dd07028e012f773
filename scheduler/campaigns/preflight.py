"""Decides whether a campaign may start. Pure: a scan's counts against budgets, space and the operator's flags."""

from __future__ import annotations

from collections.abc import Mapping

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.worker.errors import BudgetExhaustedError, RefusedError, SpaceError
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.budget import Budget, as_of_text, restored_text
from kube_rewrap.worker.records.census import BATCH_OBJECTS
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.quarantined import KEPT
from kube_rewrap.worker.verdict import KeyRef

_WRITES_OF_BATCH = 8  # planned, taken up, the small pages at its beginning, done
_BYTES_OF_CHECKPOINT = 2_048
_BYTES_OF_QUARANTINED = 1_024  # etcd key, reason and sentence, and the path of the record


def preflight(
    found: Inventory,
    budgets: Mapping[str, Budget],
    room: Room,
    settings: BudgetSettings,
    revision: int,
    *,
    allow_plaintext: bool,
    since: int = 0,
) -> list[RefusedError]:
    """Return every reason not to start, none if it may. `revision` is the store's, read after the budgets.

    `since` is as in `CampaignOptions`.
    """
    refusals = _wrong_since(found, since, revision)
    decrypting = [tally.resource for tally in found.resources if tally.primary.provider == "identity" and tally.stale]
    if decrypting and not allow_plaintext:
        refusals.append(
            RefusedError(
                f"identity is the primary of {', '.join(decrypting)}: this would decrypt stored objects to plaintext. "
                "To do so, give --allow-plaintext"
            )
        )
    for key, wanted in _wanted(found).items():
        budget = budgets.get(key.fingerprint, Budget(fingerprint=key.fingerprint, provider=key.provider))
        left = budget.left(settings.gcm_limit)
        if left is not None and wanted > left:
            refusals.append(_too_few(key, wanted, left, budget, settings, revision=revision))
    if room.refusal is not None and (found.stale or found.unreadable):
        refusals.append(SpaceError(room.refusal))
    return refusals


def growth_of(found: Inventory, grows: Mapping[KeyRef, int]) -> int:
    """Return by how many bytes a campaign makes the objects larger in all: each that is not under its primary yet.

    `grows`: by how many bytes each primary makes a value larger than its plaintext; KMS adds a wrapped key and what
    its plugin says of it. Objects under another key are taken for plaintext: the estimate is too high rather than too
    low.
    """
    return sum(tally.elsewhere * grows.get(tally.primary, 0) for tally in found.resources)


def _wrong_since(found: Inventory, since: int, revision: int) -> list[RefusedError]:
    """Return why the objects up to the revision `since` can't be rewritten."""
    if not since:
        return []
    refusals: list[RefusedError] = []
    others = [f"{tally.resource} ({tally.primary})" for tally in found.resources if not _is_kms(tally.primary)]
    if others:
        refusals.append(
            RefusedError(
                f"--since is for resources whose primary is a KMS provider, not for {', '.join(others)}: there, "
                "objects under a former key are found without it. Name the resources under KMS with --resource; to "
                "change a local key, see `rewrap rotate`"
            )
        )
    if since > revision:
        refusals.append(
            RefusedError(
                f"--since {since} lies in the future: etcd is at revision {revision}. Name the revision that etcd had "
                "when all KMS plugins wrapped with the new KEK; if that is now, it is at most this one"
            )
        )
    return refusals


def _is_kms(key: KeyRef) -> bool:
    return key.provider == ProviderType.KMS


def space_of_records(found: Inventory, page: int) -> int:
    """Return about how many bytes a campaign's records take in etcd; `page` is the most objects read at once.

    Workers write a batch's record after every page, and etcd keeps all its versions until a compaction. One more is
    written for each object that is named in quarantine.
    """
    if found.is_clean:
        return 0
    batches = len(found.resources) + found.objects // BATCH_OBJECTS
    checkpoints = batches * _WRITES_OF_BATCH + found.objects // page
    return checkpoints * _BYTES_OF_CHECKPOINT + min(found.unreadable, KEPT) * _BYTES_OF_QUARANTINED


def _wanted(found: Inventory) -> dict[KeyRef, int]:
    """Return how many objects each key would have to encrypt; keys of the same material count as one."""
    wanted: dict[str, tuple[KeyRef, int]] = {}
    for tally in found.resources:
        key, count = wanted.get(tally.primary.fingerprint, (tally.primary, 0))
        wanted[tally.primary.fingerprint] = key, count + tally.stale
    return dict(wanted.values())


def _too_few(
    key: KeyRef, wanted: int, left: int, budget: Budget, settings: BudgetSettings, *, revision: int
) -> BudgetExhaustedError:
    if budget.restored:
        return BudgetExhaustedError(restored_text(key))
    return BudgetExhaustedError(
        f"{wanted} objects are to be encrypted with {key}, which has {left} of {settings.gcm_limit} writes left"
        f"{as_of_text(budget, revision)}. "
        "Rotate to a new key, change to secretbox, or raise --gcm-limit (at most 4294967296, NIST SP 800-38D)"
    )
