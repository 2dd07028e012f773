"""Checks of the configuration: which resources it covers, and with which providers. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kube_rewrap.config.encryption.configuration import KeyedProvider, KmsProvider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.scheduler.hardening.facts import Check, Facts, State, named

# Never in one step: a kube-apiserver with the old file could not read what the others write.
_IN_ORDER = (
    "first behind identity, then before it, each step on all kube-apiservers (`rewrap converged`) before the next; "
    "then `rewrap run`"
)


def primary_encrypts(facts: Facts) -> Check:
    """Check that every configured resource is written encrypted. One that is exempted on purpose fails, too."""
    name = "primary-encrypts"
    plain = _written_by(facts, ProviderType.IDENTITY)
    if plain:
        return Check(
            name,
            State.FAIL,
            f"{named(plain)}: written in plaintext, for identity is the first provider",
            f"put a key before identity: {_IN_ORDER}",
        )
    keyspace = facts.settings.keyspace
    layout = Layout.from_texts(keyspace.etcd_prefix, keyspace.paths)
    if idle := [one for one in _names(facts) if layout.why_idle(GroupResource.parse(one)) is not None]:
        reason = f"{named(idle)}: governs no resource, so the intended one is written in plaintext"
        return Check(name, State.WARN, reason, "`rewrap check` shows what to write instead")
    return Check(name, State.PASS, f"every configured resource is written encrypted: {named(_names(facts))}")


def secrets_covered(facts: Facts) -> Check:
    """Check that secrets are written encrypted: they are what encryption at rest is for."""
    return _covered(facts, "secrets", State.FAIL)


def configmaps_covered(facts: Facts) -> Check:
    """Check that ConfigMaps are written encrypted: they often hold credentials, too."""
    return _covered(facts, "configmaps", State.WARN)


def _covered(facts: Facts, resource: str, otherwise: State) -> Check:
    name = f"{resource}-covered"
    providers = facts.configuration.providers_for(GroupResource(resource))
    if providers is None:
        reason = f"no entry covers {resource}: kube-apiserver writes them in plaintext"
    elif providers[0].type is ProviderType.IDENTITY:
        reason = f"identity is the first provider of {resource}: kube-apiserver writes them in plaintext"
    else:
        return Check(name, State.PASS, f"{resource} are written with {providers[0].type.value}")
    return Check(name, otherwise, reason, f"let an entry with a key govern {resource}: {_IN_ORDER}")


def aescbc(facts: Facts) -> Check:
    """Check for aescbc, which has no integrity: anyone who can write to etcd can change the plaintext."""
    name = "aescbc"
    weak = _written_by(facts, ProviderType.AESCBC)
    if weak:
        reason = f"{named(weak)}: written with aescbc, which does not detect a changed value"
        return Check(name, State.WARN, reason, "rotate to secretbox or KMS v2: `rewrap rotate --provider secretbox`")
    return Check(name, State.PASS, "nothing is written with aescbc")


def aesgcm_rotation(facts: Facts) -> Check:
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
        "set `auto = true` in [rotation] of the scheduler's settings (give the same file here), or use secretbox",
    )


def kms_v1(facts: Facts) -> Check:
    """Check for KMS v1, deprecated since Kubernetes 1.28 and off by default since 1.29."""
    name, remedy = "kms-v1", "change the plugin and the provider to `apiVersion: v2`"
    primaries = (facts.configuration.providers_for(GroupResource.parse(one)) for one in _names(facts))
    if writing := _v1(providers[0] for providers in primaries if providers):
        return Check(name, State.FAIL, f"{named(writing)}: writes by KMS v1, which is deprecated", remedy)
    if reading := _v1(provider for entry in facts.configuration.entries for provider in entry.providers):
        return Check(name, State.WARN, f"{named(reading)}: may read by KMS v1, which is deprecated", remedy)
    return Check(name, State.PASS, "no provider uses KMS v1")


def _v1(providers: Iterable[object]) -> list[str]:
    return [one.name for one in providers if isinstance(one, KmsProvider) and one.api_version == "v1"]


def key_material(facts: Facts) -> Check:
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


def key_names(facts: Facts) -> Check:
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


def _keys(facts: Facts) -> Iterable[tuple[str, str, SecretBytes]]:
    """Yield each key's place in the file, its provider and name, and its material."""
    for index, entry in enumerate(facts.configuration.entries):
        for provider in entry.providers:
            for key in provider.keys if isinstance(provider, KeyedProvider) else ():
                called = f"{provider.type.value} {key.name!r}"
                yield f"resources[{index}] {called}", called, key.secret


def _written_by(facts: Facts, provider: ProviderType) -> list[str]:
    return [name for key, names in facts.writers.items() if key.provider == provider for name in names]


def _names(facts: Facts) -> tuple[str, ...]:
    return facts.configuration.resource_names()
