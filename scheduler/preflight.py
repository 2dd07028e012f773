"""May a campaign start? Pure: what a scan counted, against budgets, space and the operator's word."""

from __future__ import annotations

from collections.abc import Mapping

from config.settings import BudgetSettings
from worker.errors import BudgetExhaustedError, RefusedError, SpaceError
from worker.model.budget import Budget, restored_text
from worker.model.inventory import Inventory
from worker.model.verdict import KeyRef
from worker.pace.pressure import Room


def preflight(
    found: Inventory,
    budgets: Mapping[str, Budget],
    room: Room,
    settings: BudgetSettings,
    *,
    allow_plaintext: bool,
) -> list[RefusedError]:
    """Return every reason not to start; none = go."""
    refusals: list[RefusedError] = []
    decrypting = [tally.resource for tally in found.resources if tally.primary.provider == "identity" and tally.stale]
    if decrypting and not allow_plaintext:
        refusals.append(
            RefusedError(
                f"identity is the primary of {', '.join(decrypting)}: this would decrypt stored objects to plaintext. "
                "If that is meant, say --allow-plaintext"
            )
        )
    for key, wanted in _wanted(found).items():
        budget = budgets.get(key.fingerprint, Budget(key.fingerprint, key.provider))
        left = budget.left(settings.gcm_limit)
        if left is not None and wanted > left:
            refusals.append(_too_few(key, wanted, left, budget, settings))
    if room.refusal is not None and found.stale:
        refusals.append(SpaceError(room.refusal))
    return refusals


def _wanted(found: Inventory) -> dict[KeyRef, int]:
    """Return how many objects each key would have to encrypt, the same material counted once."""
    wanted: dict[str, tuple[KeyRef, int]] = {}
    for tally in found.resources:
        key, count = wanted.get(tally.primary.fingerprint, (tally.primary, 0))
        wanted[tally.primary.fingerprint] = key, count + tally.stale
    return dict(wanted.values())


def _too_few(key: KeyRef, wanted: int, left: int, budget: Budget, settings: BudgetSettings) -> BudgetExhaustedError:
    if budget.restored:
        return BudgetExhaustedError(restored_text(key))
    return BudgetExhaustedError(
        f"{wanted} objects are to be encrypted with {key}, which has {left} of {settings.gcm_limit} writes left. "
        "Rotate to a new key, change to secretbox, or raise --gcm-limit (at most 4294967296, NIST SP 800-38D)"
    )
