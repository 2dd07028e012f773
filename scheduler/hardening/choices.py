"""Checks of the configuration: which resources it covers, and with which providers. Pure.

Providers are ranked as Kubernetes' documentation ranks them ("Encrypting Confidential Data at Rest"), best first:

1. KMS v2: the strongest; the key-encryption key is not on the control plane's disks.
2. secretbox: strong; keys are in the file.
3. aesgcm: strong while its keys are rotated, at the latest after 200,000 writes.
4. aescbc, which is weak; KMS v1, deprecated and slow; identity, which does not encrypt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kube_rewrap.config.encryption.configuration import KeyedProvider, KmsProvider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.scheduler.hardening.facts import Check, HardeningFacts, State, named

# Never in one step: a kube-apiserver with the old file could not read what the others write.
_IN_ORDER = (
    "first behind identity, then before it, each step on all kube-apiservers (`rewrap converged`) before the next; "
    "then `rewrap run`"
)

_KMS_V2 = "KMS v2, whose key-encryption key is in no file and is rotated in the KMS"
_SECRETBOX = "secretbox, whose keys bear any number of writes"
_AESGCM = "aesgcm with automatic rotation, whose keys bear 200,000"


def primary_encrypts(facts: HardeningFacts) -> Check:
    """Check that every configured resource is written encrypted. One that is exempted on purpose fails, too."""
    name = "primary-encrypts"
    plain = _written_by(facts, ProviderType.IDENTITY)
    if plain:
        return Check(
            name,
            State.FAIL,
            f"{named(plain)}: written in plaintext, for identity is the first provider",
            f"put a key before identity: {_IN_ORDER}. Best first: {_KMS_V2}; {_SECRETBOX}; {_AESGCM}",
        )
    keyspace = facts.settings.keyspace
    layout = Layout.from_texts(keyspace.etcd_prefix, keyspace.paths)
    if idle := [one for one in _names(facts) if layout.why_idle(GroupResource.parse(one)) is not None]:
        reason = f"{named(idle)}: governs no resource, so the intended one is written in plaintext"
        return Check(name, State.WARN, reason, "`rewrap check` shows what to write instead")
    return Check(name, State.PASS, f"every configured resource is written encrypted: {named(_names(facts))}")


def secrets_covered(facts: HardeningFacts) -> Check:
    """Check that secrets are written encrypted: they are what encryption at rest is for."""
    return _covered(facts, "secrets", State.FAIL)


def configmaps_covered(facts: HardeningFacts) -> Check:
    """Check that ConfigMaps are written encrypted: they often hold credentials, too."""
    return _covered(facts, "configmaps", State.WARN)


def _covered(facts: HardeningFacts, resource: str, otherwise: State) -> Check:
    name = f"{resource}-covered"
    providers = facts.configuration.providers_for(GroupResource(resource))
    if providers is None:
        reason = f"no entry covers {resource}: kube-apiserver writes them in plaintext"
    elif providers[0].type is ProviderType.IDENTITY:
        reason = f"identity is the first provider of {resource}: kube-apiserver writes them in plaintext"
    else:
        return Check(name, State.PASS, f"{resource} are written with {providers[0].type.value}")
    return Check(name, otherwise, reason, f"let an entry with a key govern {resource}: {_IN_ORDER}")


def aescbc(facts: HardeningFacts) -> Check:
    """Check for aescbc, which has no integrity: anyone who can write to etcd can change the plaintext."""
    name = "aescbc"
    weak = _written_by(facts, ProviderType.AESCBC)
    if weak:
        reason = f"{named(weak)}: written with aescbc, which does not detect a changed value"
        remedy = f"`rewrap rotate --provider TYPE` to one of these, best first: {_KMS_V2}; {_SECRETBOX}; {_AESGCM}"
        return Check(name, State.WARN, reason, remedy)
    return Check(name, State.PASS, "nothing is written with aescbc")


def aesgcm_rotation(facts: HardeningFacts) -> Check:
    """Check that aesgcm keys are rotated automatically: Kubernetes recommends aesgcm only then."""
    name = "aesgcm-rotation"
    wearing = _written_by(facts, ProviderType.AESGCM)
    if not wearing:
        return Check(name, State.PASS, "nothing is written with aesgcm")
    if facts.settings.rotation.auto:
        return Check(name, State.PASS, f"{named(wearing)}: written with aesgcm, and the scheduler rotates a due key")
    return Check(
        name,
        State.WARN,
        f"{named(wearing)}: written with aesgcm, whose keys need rotation; these settings rotate none automatically",
        "set `auto = true` in [rotation] of the scheduler's settings (give the same file here), or rotate to one of "
        f"these, best first: {_KMS_V2}; {_SECRETBOX}",
    )


def kms_v1(facts: HardeningFacts) -> Check:
    """Check for KMS v1, which is deprecated, and which a kube-apiserver refuses by default from 1.29 on."""
    name = "kms-v1"
    why = "deprecated since Kubernetes 1.28; from 1.29 on kube-apiserver refuses the file unless its gate KMSv1 is on"
    if writing := [one.name for one in _kms_writers(facts) if one.api_version == "v1"]:
        # The name is a part of each stored value, and so is the version.
        remedy = (
            "`rewrap rotate --provider kms --kms-file FILE`, with a provider of v2 under a new name. Never change "
            "`apiVersion` under the same name: kube-apiserver could read nothing of what is stored"
        )
        return Check(name, State.FAIL, f"{named(writing)}: writes by KMS v1, {why}", remedy)
    if reading := [one.name for one in _kms(facts) if one.api_version == "v1"]:
        remedy = "`rewrap run`, then remove it when `rewrap verify` calls it removable"
        return Check(name, State.WARN, f"{named(reading)}: may read by KMS v1, {why}", remedy)
    return Check(name, State.PASS, "no provider uses KMS v1")


def kms_endpoint(facts: HardeningFacts) -> Check:
    """Check that each KMS endpoint connects to what its text suggests: kube-apiserver validates its scheme only."""
    name, remedy = "kms-endpoint", "write three slashes and the path: unix:///run/kms.sock, or unix:///@name"
    odd = [(f"{one.name}: {one.address.warning}", one.address.socket) for one in _kms(facts) if one.address.warning]
    if dead := [said for said, socket in odd if not socket]:
        return Check(name, State.FAIL, named(dead), remedy)
    if odd:
        return Check(name, State.WARN, named(said for said, _ in odd), remedy)
    return Check(name, State.PASS, "every KMS endpoint names a socket" if _kms(facts) else "no KMS provider")


def kms_unused(facts: HardeningFacts) -> Check:
    """Check for KMS providers without use: kube-apiserver needs their plugins nevertheless, to start and to reload."""
    name, idle = "kms-unused", dict.fromkeys(one.name for one in _kms(facts))
    for used in (*(one.name for one in _kms_writers(facts)), *_under_kms(facts)):
        idle.pop(used, None)
    if idle:
        reason = f"no object is under these KMS providers, and nothing is written under them: {named(idle)}"
        remedy = (
            "remove them when `rewrap verify` calls them removable, or let them write; until then kube-apiserver needs "
            "their plugins to start"
        )
        return Check(name, State.WARN, reason, remedy)
    return Check(name, State.PASS, "every KMS provider is in use" if _kms(facts) else "no KMS provider")


def _kms(facts: HardeningFacts) -> list[KmsProvider]:
    providers = (provider for entry in facts.configuration.entries for provider in entry.providers)
    return [one for one in providers if isinstance(one, KmsProvider)]


def _kms_writers(facts: HardeningFacts) -> list[KmsProvider]:
    chains = (facts.configuration.providers_for(GroupResource.parse(one)) for one in _names(facts))
    return [chain[0] for chain in chains if chain and isinstance(chain[0], KmsProvider)]


def _under_kms(facts: HardeningFacts) -> Iterable[str]:
    """Yield the name of each KMS provider under which there are objects, or may be unreadable ones."""
    for tally in facts.proof.resources:
        for key in (*tally.keys, *tally.claimed):
            if key.provider == ProviderType.KMS:
                yield key.name


def key_material(facts: HardeningFacts) -> Check:
    """Check that no two names or providers share key material: its writes and its loss would count for both, unnoticed.

    One key in several entries is no fault: it has one budget, and a rotation of all entries creates just that.
    """
    name = "key-material"
    places: dict[SecretBytes, dict[str, str]] = defaultdict(dict)
    for place, key, secret in _keys(facts):
        places[secret].setdefault(key, place)
    shared = [" = ".join(found.values()) for found in places.values() if len(found) > 1]
    if shared:
        return Check(
            name,
            State.WARN,
            f"the same key material serves as more than one key: {named(shared)}",
            "rotate each of them to a key of its own: `rewrap rotate --resource R`",
        )
    return Check(name, State.PASS, "no key material serves as two keys")


def key_names(facts: HardeningFacts) -> Check:
    """Check that each key name has one material: stored values and archives identify a key by its name."""
    name = "key-names"
    materials: dict[str, set[SecretBytes]] = defaultdict(set)
    for entry in facts.configuration.entries:
        for provider in entry.providers:
            for key in provider.keys if isinstance(provider, KeyedProvider) else ():
                materials[key.name].add(key.secret)
    ambiguous = [repr(label) for label, found in materials.items() if len(found) > 1]
    if ambiguous:
        reason = f"two keys have one name: {named(ambiguous)}"
        return Check(name, State.WARN, reason, "give the next key a name that no key of the cluster ever had")
    return Check(name, State.PASS, "every key has a name of its own")


def _keys(facts: HardeningFacts) -> Iterable[tuple[str, str, SecretBytes]]:
    """Yield each key's place in the file, its provider and name, and its material."""
    for index, entry in enumerate(facts.configuration.entries):
        for provider in entry.providers:
            for key in provider.keys if isinstance(provider, KeyedProvider) else ():
                called = f"{provider.type.value} {key.name!r}"
                yield f"resources[{index}] {called}", called, key.secret


def _written_by(facts: HardeningFacts, provider: ProviderType) -> list[str]:
    return [name for key, names in facts.writers.items() if key.provider == provider for name in names]


def _names(facts: HardeningFacts) -> tuple[str, ...]:
    return facts.configuration.resource_names()
