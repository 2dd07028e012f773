"""The smallest EncryptionConfiguration under which kube-apiserver reads a backup. Pure.

1. The entries are those of the present file with their names, so that what is written after the restore is encrypted as
   it is now: the key that writes now stays first.
2. Behind it each entry has the keys that the backup's objects of its resources need, those of the present file first,
   then those of the archived ones, the newest first; `identity` where objects are in plaintext. No other key.
3. kube-apiserver takes each name of a KMS v2 provider once. Of several of one name the first counts: its plugin may
   have moved. One that several entries need as a key that only reads is in an entry of its own, which names their
   resources once more: kube-apiserver tries the providers of all entries that name a resource, in their order.
4. An encrypted resource that the present file does not name gets an entry of its own: kube-apiserver writes it as
   plaintext now, and goes on to do so.

Not handled: what the keys open. The caller proves the backup with the result.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import (
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_NANOSECONDS = 1_000_000_000
_Needed = Mapping[str, Sequence[KeyRef]]
_Single = tuple[Provider, KeyRef | None]
"""A provider with one key, or one without keys; and that key."""


def smallest_configuration(needed: _Needed, generations: Sequence[Generation]) -> bytes:
    """Return the file, as JSON, which kube-apiserver reads as it reads YAML.

    `needed`: the keys of the backup's objects by resource. `generations`: the present one first; one of them has each
    key. The result holds keys.
    """
    present = generations[0].configuration
    known = _first_of_each_name(generations)
    entries = [
        (entry.resources, _chain([*_singles([entry])][:1], _needed_by(entry, needed, present), generations, known))
        for entry in present.entries
    ]
    for resource, keys in needed.items():
        is_encrypted = any(key.fingerprint != PLAINTEXT_FINGERPRINT for key in keys)
        if present.providers_for(GroupResource.parse(resource)) is None and is_encrypted:
            entries.append(((resource,), _chain([_PLAIN], keys, generations, known)))
    rendered = [{"resources": [*names], "providers": [*_rendered(chain)]} for names, chain in _each_once(entries)]
    document = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": rendered}
    return (json.dumps(document, indent=2) + "\n").encode()


def doubtful_names(configuration: EncryptionConfiguration) -> list[str]:
    """Return the names of the aescbc keys of which the prefix begins the values of another one of the same entry.

    It has the same name, or one that goes on after a colon. aescbc has no integrity: where kube-apiserver tries the
    wrong one first, one value in some 256 opens to garbage.
    """
    found: dict[str, None] = {}
    for entry in configuration.entries:
        providers = (one for one in entry.providers if isinstance(one, KeyedProvider))
        names = [key.name for one in providers if one.type == ProviderType.AESCBC for key in one.keys]
        begins = {name: sum(f"{other}:".startswith(f"{name}:") for other in names) for name in names}
        found |= dict.fromkeys(name for name, values in begins.items() if values > 1)
    return list(found)


def _needed_by(entry: ResourceEntry, needed: _Needed, present: EncryptionConfiguration) -> list[KeyRef]:
    """Return the keys of all objects that an entry governs, alone or with another one."""
    found: dict[KeyRef, None] = {}
    for resource, keys in needed.items():
        governing = present.providers_for(GroupResource.parse(resource)) or ()
        if any(provider is one for provider in entry.providers for one in governing):
            found |= dict.fromkeys(keys)
    return list(found)


def _first_of_each_name(generations: Sequence[Generation]) -> Mapping[str, KmsProvider]:
    """Return the KMS v2 providers by name."""
    found: dict[str, KmsProvider] = {}
    for generation in generations:
        for one in generation.kms_providers:
            if one.api_version == "v2":
                found.setdefault(one.name, one)
    return found


def _chain(
    first: Sequence[_Single],
    needed: Sequence[KeyRef],
    generations: Sequence[Generation],
    known: Mapping[str, KmsProvider],
) -> list[_Single]:
    chain = [*first]
    for generation in generations:
        for single in _singles(generation.configuration.entries):
            one, key = single
            if isinstance(one, KmsProvider) and one.api_version == "v2":
                single = known[one.name], key  # noqa: PLW2901 - the one that counts
            if _is_needed(one, key, needed) and single not in chain:
                chain.append(single)
    if any(key.fingerprint == PLAINTEXT_FINGERPRINT for key in needed):
        chain = chain if any(isinstance(one, IdentityProvider) for one, _ in chain) else [*chain, _PLAIN]
    return chain


_PLAIN: _Single = (IdentityProvider(), None)
_Entry = tuple[Sequence[str], Sequence[_Single]]


def _each_once(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """Yield the entries, and behind them those of the KMS v2 providers that several of them have."""
    shared: dict[_Single, list[str]] = {}
    for single in dict.fromkeys(single for _, chain in entries for single in chain):
        one, _ = single
        having = [(names, chain) for names, chain in entries if single in chain]
        is_v2 = isinstance(one, KmsProvider) and one.api_version == "v2"
        if is_v2 and len(having) > 1 and not any(single == chain[0] for _, chain in having):
            shared[single] = [name for names, _ in having for name in names]
    for names, chain in entries:
        yield names, [single for single in chain if single not in shared]
    for single, resources in shared.items():
        yield [*dict.fromkeys(resources)], [single]


def _singles(entries: Iterable[ResourceEntry]) -> Iterator[_Single]:
    """Yield each key of the entries in their order, as a provider of its own."""
    for entry in entries:
        for provider in entry.providers:
            if not isinstance(provider, KeyedProvider):
                yield provider, None
                continue
            for key in provider.keys:
                reference = KeyRef(provider.type, key.name, key.secret.fingerprint(provider.type))
                yield KeyedProvider(provider.type, (key,)), reference


def _is_needed(provider: Provider, key: KeyRef | None, needed: Sequence[KeyRef]) -> bool:
    if isinstance(provider, KmsProvider):
        return any(
            (one.provider, one.name, one.version[:2]) == (provider.type, provider.name, provider.api_version)
            for one in needed
        )
    return key in needed


def _rendered(chain: Iterable[_Single]) -> Iterator[dict[str, object]]:
    """Yield the providers; neighbours of one type share one."""
    for kind, group in groupby(chain, key=lambda single: single[0].type):
        providers = [one for one, _ in group]
        match providers[0]:
            case KeyedProvider():
                keys = [key for one in providers if isinstance(one, KeyedProvider) for key in one.keys]
                yield {kind.value: {"keys": [_rendered_key(key) for key in keys]}}
            case IdentityProvider():
                yield {kind.value: {}}
            case KmsProvider():
                for one in providers:
                    if isinstance(one, KmsProvider):
                        yield {kind.value: _rendered_kms(one)}


def _rendered_key(key: Key) -> dict[str, str]:
    return {"name": key.name, "secret": base64.b64encode(key.secret.reveal()).decode()}


def _rendered_kms(one: KmsProvider) -> dict[str, object]:
    cache = {} if one.cache_size is None else {"cachesize": one.cache_size}
    timeout = f"{round(one.timeout_seconds * _NANOSECONDS)}ns"
    return {"apiVersion": one.api_version, "name": one.name, "endpoint": one.endpoint, "timeout": timeout, **cache}
