"""Estimates how long a campaign takes at the ceiling of calls to KMS v1 plugins. Pure.

Each value under KMS v1 has a data key of its own: a call reads it, and one more writes it, or two where each new data
key is checked (`check_wrapped`). The estimates are lower bounds: a process that dies opens its objects again, and a
proof opens those that its process does not remember. Values under KMS v2 share their seeds: tens to hundreds of calls
read all of them, which are not estimated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import KeyRef

COMPACTION_SECONDS = 300.0
"""How long etcd keeps a revision at least: kube-apiserver's --etcd-compaction-interval."""


@dataclass(frozen=True, slots=True)
class PluginCalls:
    """The least calls to the plugin of a KMS v1 provider; `rate` is their ceiling in calls a second, 0 = none."""

    provider: str
    calls: int
    rate: float

    @property
    def seconds(self) -> float:
        """The least seconds that the calls take, 0.0 without a ceiling."""
        return self.calls / self.rate if self.rate else 0.0

    def to_json(self) -> dict[str, object]:
        """Return the JSON form; `seconds` is null without a ceiling."""
        seconds = round(self.seconds, 1) if self.rate else None
        return {"provider": self.provider, "calls": self.calls, "calls_per_second": self.rate, "seconds": seconds}

    def __str__(self) -> str:
        named = f"{self.calls:,} calls to the plugin of the KMS v1 provider {self.provider!r}"
        if not self.rate:
            return f"{named}, without a ceiling (v1_rate)"
        return f"{named}, at most {self.rate:g} a second (v1_rate), so at least {self.seconds:,.0f} s"


def calls_to_read(found: Inventory, settings: KmsSettings) -> tuple[PluginCalls, ...]:
    """Return the calls that open every object under KMS v1, by provider."""
    return _estimates(_reads(found), settings)


def calls_to_rewrap(found: Inventory, settings: KmsSettings) -> tuple[PluginCalls, ...]:
    """Return the calls with which a campaign opens every object under KMS v1, and seals those it has to move there."""
    calls = _reads(found)
    for tally in found.resources:
        if _is_v1(tally.primary):
            calls[tally.primary.name] += tally.stale * (2 if settings.check_wrapped else 1)
    return _estimates(calls, settings)


def slow_proofs(found: Inventory, settings: KmsSettings) -> tuple[str, ...]:
    """Return, for each KMS v1 provider that writes, why a proof may take longer than etcd keeps its revision.

    A proof opens every object, whichever key it is under now.
    """
    reads: Counter[str] = Counter()
    for tally in found.resources:
        if _is_v1(tally.primary):
            reads[tally.primary.name] += tally.readable
    slow = (one for one in _estimates(reads, settings) if one.seconds > COMPACTION_SECONDS)
    return tuple(
        f"a proof takes {one}; kube-apiserver has etcd compact revisions away that are five minutes old, and a scan of "
        "one that is gone begins anew. What a process has unwrapped it does not ask for again while it remembers it "
        "(kms.cache_entries, kms.cache_bytes). Raise kms.v1_rate and the KMS' quota, raise the cache above the number "
        "of objects, or move them to KMS v2, whose objects share their keys"
        for one in slow
    )


def kms_v1_providers(generation: GenerationRecord) -> tuple[str, ...]:
    """Return the names of the KMS v1 providers of a configuration, each once."""
    return tuple(dict.fromkeys(key.name for _, chain in generation.resources for key in chain if _is_v1(key)))


def _reads(found: Inventory) -> Counter[str]:
    calls: Counter[str] = Counter()
    for tally in found.resources:
        for key, under in tally.keys.items():
            if _is_v1(key):
                calls[key.name] += under.objects
    return calls


def _estimates(calls: Counter[str], settings: KmsSettings) -> tuple[PluginCalls, ...]:
    return tuple(PluginCalls(name, count, settings.v1_rate) for name, count in sorted(calls.items()) if count)


def _is_v1(key: KeyRef) -> bool:
    return key.provider == ProviderType.KMS and key.version.startswith("v1")
