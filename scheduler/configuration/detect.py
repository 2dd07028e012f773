"""Detects what changed between two generations, resource by resource. Pure.

1. No earlier generation: each resource is seen for the first time.
2. Compare a resource by the entry that governs it: its exact name, then `*.<group>`, then `*.*`. So an entry that
   takes a resource over from a wildcard, or leaves it to one, adds or removes no resource.
3. Added: nothing governed it. Removed: nothing governs it any more.
4. The primary: another provider, another key of the same provider, or other material under the same name.
5. The other keys: other material under the same name, removed, added.
6. The primary stayed, and the keys that stayed are tried in another order.
7. A KMS provider is one key, by its name and its version. Where it writes before and after, another KEK is a change;
   so is another version under its name, since name and version are the prefix of its values. A KMS provider whose
   plugin has another address may be another KMS: nothing shows whether it unwraps what the former one wrapped. Where
   a provider of another name has come to the former address, the name was given to another KMS for certain. Several
   KMS v1 providers of one name and one resource are told apart by their order.

Two files of the same meaning, with the same KEKs, have no changes, though their hashes differ. Not detected: a KEK that
is rotated while its key id stays, as in KMS v1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, PLAINTEXT_FINGERPRINT, KeyRef

ChainKeys = tuple[KeyRef, ...]


class ChangeKind(StrEnum):
    """The kind of change of a resource. The values are stable: logs and records hold them."""

    FIRST_SIGHT = "first_sight"
    RESOURCE_ADDED = "resource_added"
    RESOURCE_REMOVED = "resource_removed"
    PRIMARY_PROVIDER = "primary_provider_changed"
    PRIMARY_KEY = "primary_key_changed"
    PRIMARY_MATERIAL = "primary_material_changed"
    PRIMARY_KEK = "primary_kek_changed"
    KMS_VERSION = "kms_version_changed"
    KMS_ADDRESS = "kms_address_changed"
    KMS_REUSED = "kms_name_reused"
    KMS_ORDER = "kms_order_changed"
    MATERIAL = "read_material_changed"
    KEY_REMOVED = "read_key_removed"
    KEY_ADDED = "read_key_added"
    ORDER = "order_changed"


_CAMPAIGN = frozenset(
    {
        ChangeKind.FIRST_SIGHT,
        ChangeKind.RESOURCE_ADDED,
        ChangeKind.PRIMARY_PROVIDER,
        ChangeKind.PRIMARY_KEY,
        ChangeKind.PRIMARY_MATERIAL,
        ChangeKind.PRIMARY_KEK,
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `danger`: etcd may hold objects that kube-apiserver can't read under the new generation."""

    resource: str
    """As in the file; a wildcard means the resources that no other entry governs."""
    kind: ChangeKind
    because: str
    danger: bool = False

    @property
    def needs_campaign(self) -> bool:
        """Whether a campaign has to rewrite objects because of it."""
        return self.kind in _CAMPAIGN

    @property
    def is_refused(self) -> bool:
        """Whether nothing may be written under the new generation: each write would make the way back harder."""
        return self.kind in {ChangeKind.KMS_VERSION, ChangeKind.KMS_REUSED}

    @property
    def is_warning(self) -> bool:
        """Whether an operator has to look at it: a danger, or a change of which the effect is not known."""
        return self.danger or self.kind in {ChangeKind.KMS_ADDRESS, ChangeKind.KMS_ORDER}

    def log_context(self) -> dict[str, object]:
        """Return the fields that a log line about this change carries."""
        return {"resource": self.resource, "change": self.kind.value, "because": self.because}


def detect(before: GenerationRecord | None, after: GenerationRecord) -> tuple[Change, ...]:
    """Return the changes in the order of the newer file; resources that only the older one names come last."""
    new = _chains(after)
    if before is None:
        return tuple(_first_sight(str(name), chain[0]) for name, chain in new.items())
    old = _chains(before)
    names = dict.fromkeys((*new, *old))
    found: list[Change] = []
    for name in names:
        was, now = _governing(old, name), _governing(new, name)
        found += _compare(name, was, now)
        if was is not None and now is not None:
            found += _moved(str(name), was, now, before, after)
    return tuple(found)


def why_refused(changes: Iterable[Change], file: str) -> str:
    """Return why nothing may be written under a file because of these changes, "" = they forbid nothing.

    The leader, `rewrap run` and `rewrap rotate` refuse by it.
    """
    refused = next((change for change in changes if change.is_refused), None)
    if refused is None:
        return ""
    return (
        f"nothing is written under the file {file}: {refused.because}. If nothing is stored under the former one, take "
        "that out of the file first, and add the new one after a scheduler accepted the file"
    )


def detect_in_store(found: Inventory) -> tuple[Change, ...]:
    """Return the changes that stored values show: a configured KMS provider of which some are under another version.

    They need no record of the former configuration.
    """
    changes: dict[Change, None] = {}
    for tally in found.resources:
        kms = [key for key in tally.configured if key.provider == ProviderType.KMS]
        versions = {(key.name, key.version) for key in kms}
        for key in tally.claimed:
            named = [one for one in kms if one.name == key.name and key.provider == one.provider]
            if named and key.version != KMS_FINGERPRINT and (key.name, key.version) not in versions:
                changes[_version(tally.resource, key, named[0])] = None
    return tuple(changes)


def _chains(generation: GenerationRecord) -> dict[GroupResource, ChainKeys]:
    """Return the chains by resource; a key that a chain lists twice counts once."""
    return {GroupResource.parse(name): tuple(dict.fromkeys(keys)) for name, keys in generation.resources}


def _governing(chains: Mapping[GroupResource, ChainKeys], name: GroupResource) -> ChainKeys | None:
    """Return the chain of a resource or wildcard, as EncryptionConfiguration.providers_for does."""
    for candidate in (name, GroupResource("*", name.group), ANY):
        if candidate in chains:
            return chains[candidate]
    return None


def _compare(name: GroupResource, old: ChainKeys | None, new: ChainKeys | None) -> Iterator[Change]:
    resource = str(name)
    if old is not None and new is not None:
        yield from _kek(resource, old[0], new[0])
        old, new = _by_version(old, new)
        yield from _primary(resource, old, new)
        yield from _others(resource, old, new)
        yield from _order(resource, old, new)
    elif new is not None:
        yield _added(resource, new)
    elif old is not None:
        yield _removed(resource, old)


def _first_sight(resource: str, primary: KeyRef) -> Change:
    because = f"no earlier configuration is on record, and {resource} is written with {primary}"
    return Change(resource, ChangeKind.FIRST_SIGHT, because)


def _added(resource: str, new: ChainKeys) -> Change:
    because = f"no entry governed {resource} before, and it is now written with {new[0]}"
    # kube-apiserver stored ungoverned objects as plaintext.
    blind = not any(key.fingerprint == PLAINTEXT_FINGERPRINT for key in new)
    if blind:
        because += "; identity is not among its providers: objects that are stored as plaintext can't be read"
    return Change(resource, ChangeKind.RESOURCE_ADDED, because, danger=blind)


def _removed(resource: str, old: ChainKeys) -> Change:
    because = f"no entry governs {resource} any more, which was written with {old[0]}; new objects are plaintext"
    lost = [str(key) for key in old if key.fingerprint != PLAINTEXT_FINGERPRINT]
    if lost:
        because += f", and kube-apiserver can't read what is still under {', '.join(lost)}"
    return Change(resource, ChangeKind.RESOURCE_REMOVED, because, danger=bool(lost))


def _by_version(old: ChainKeys, new: ChainKeys) -> tuple[ChainKeys, ChainKeys]:
    """Return the chains with each KMS provider as one key, whatever its KEK, each key once.

    A name of which one chain does not record the version counts as of one version.
    """
    kms = [key for key in (*old, *new) if key.provider == ProviderType.KMS]
    untold = {key.name for key in kms if key.version.startswith(KMS_FINGERPRINT)}
    return _named_by_version(old, untold), _named_by_version(new, untold)


def _named_by_version(chain: ChainKeys, untold: Collection[str]) -> ChainKeys:
    return tuple(
        dict.fromkeys(
            replace(key, fingerprint=KMS_FINGERPRINT if key.name in untold else key.version)
            if key.provider == ProviderType.KMS
            else key
            for key in chain
        )
    )


def _kek(resource: str, was: KeyRef, now: KeyRef) -> Iterator[Change]:
    """Compare the KEKs of a KMS provider that wrote before, and still writes."""
    if was.provider != ProviderType.KMS or (was.provider, was.name) != (now.provider, now.name):
        return
    stayed = was.version in {now.version, KMS_FINGERPRINT}
    if stayed and was != now and now.fingerprint != now.version:
        because = f"{resource} is written under another KEK of its KMS provider: {now}, before it was {was}"
        yield Change(resource, ChangeKind.PRIMARY_KEK, because)


def _moved(
    resource: str, old: ChainKeys, new: ChainKeys, before: GenerationRecord, after: GenerationRecord
) -> Iterator[Change]:
    """Compare the addresses of the plugins of KMS providers that stayed."""
    old, new = _named_by_version(old, ()), _named_by_version(new, ())
    for key in (key for key in new if key.provider == ProviderType.KMS and key in old):
        known, now = before.sockets_of(key), after.sockets_of(key)
        others = _come_to(set(known) - set(now), key, before, after)
        if known and now and others:
            because = (
                f"the name of {key}, which {resource} has, was given to another plugin, and the former one is now that "
                f"of {', '.join(others)}: all that is stored under {key} can't be read. Give the new one another name, "
                "and the former one its own"
            )
            yield Change(resource, ChangeKind.KMS_REUSED, because, danger=True)
        elif known and now and set(known) != set(now):
            because = (
                f"the plugin of {key}, which {resource} has, has another address: if it does not have the KEKs of the "
                "former one, objects under them can't be read"
            )
            yield Change(resource, ChangeKind.KMS_ADDRESS, because)
        elif known != now and known and now and "#" not in key.version:
            because = (
                f"the KMS providers named {key.name!r} of {resource} changed places: nothing stored shows which of "
                "them wrote an object"
            )
            yield Change(resource, ChangeKind.KMS_ORDER, because)


def _come_to(
    sockets: Collection[str], left_by: KeyRef, before: GenerationRecord, after: GenerationRecord
) -> tuple[str, ...]:
    """Return the KMS providers that have one of these addresses, and had it not before; not `left_by`."""
    known = set(before.sockets)
    arrived = (name for name, socket in after.sockets if socket in sockets and (name, socket) not in known)
    names = dict.fromkeys(name.partition(":")[2] for name in arrived)
    return tuple(repr(name) for name in names if name != left_by.name)


def _version(resource: str, was: KeyRef, now: KeyRef) -> Change:
    because = (
        f"the KMS provider {was.name!r} of {resource} turned from {was.version} into {now.version}: all that is stored "
        f"under {was} can't be read. Give the new one another name, and keep the former one behind it"
    )
    return Change(resource, ChangeKind.KMS_VERSION, because, danger=True)


def _primary(resource: str, old: ChainKeys, new: ChainKeys) -> Iterator[Change]:
    was, now = old[0], new[0]
    if was == now or (now.provider == ProviderType.KMS and _successors(old, new).get(was) == now):
        return
    if was.provider != now.provider:
        because = f"{resource} is written with another provider: {now}, before it was {was}"
        yield Change(resource, ChangeKind.PRIMARY_PROVIDER, because)
    elif was.name != now.name or now in old or now.provider == ProviderType.KMS:
        because = f"{resource} is written with another key: {now}, before it was {was}"
        yield Change(resource, ChangeKind.PRIMARY_KEY, because)
    else:
        because = f"the primary key of {resource} has other material under the same name: {now}, before it was {was}"
        lost = was not in new
        if lost:
            because += ", under which objects can't be read any more"
        yield Change(resource, ChangeKind.PRIMARY_MATERIAL, because, danger=lost)


def _others(resource: str, old: ChainKeys, new: ChainKeys) -> Iterator[Change]:
    """Compare all keys, without the changes that `_primary` has reported."""
    successors = _successors(old, new)
    for key in (key for key in old if key not in new):
        after = successors.get(key)
        if after is not None and key.provider == ProviderType.KMS:
            yield _version(resource, key, after)
        elif after is None:
            because = f"{key} was removed from {resource}: objects that are still under it can't be read"
            if key.provider == ProviderType.KMS:
                because += ", since a provider of another name does not read them"
            yield Change(resource, ChangeKind.KEY_REMOVED, because, danger=True)
        elif (key, after) != (old[0], new[0]):
            because = (
                f"a key of {resource} has other material under the same name: {after}, before it was {key}, "
                "under which objects can't be read any more"
            )
            yield Change(resource, ChangeKind.MATERIAL, because, danger=True)
    known = {*old, *successors.values(), new[0]}
    for key in (key for key in new if key not in known):
        yield Change(resource, ChangeKind.KEY_ADDED, f"{key} was added to {resource}, to read with")


def _successors(old: ChainKeys, new: ChainKeys) -> dict[KeyRef, KeyRef]:
    """Return, for each removed key, the added key of the same provider and name."""
    arrived = [key for key in new if key not in old]
    found: dict[KeyRef, KeyRef] = {}
    for key in old:
        after = next((one for one in arrived if (one.provider, one.name) == (key.provider, key.name)), None)
        if key not in new and after is not None:
            arrived.remove(after)
            found[key] = after
    return found


def _order(resource: str, old: ChainKeys, new: ChainKeys) -> Iterator[Change]:
    stayed = [key for key in new if key in old]
    if old[0] == new[0] and stayed != [key for key in old if key in new]:
        because = f"{resource} is still written with {new[0]}; its keys are tried as {', '.join(map(str, stayed))}"
        yield Change(resource, ChangeKind.ORDER, because)
