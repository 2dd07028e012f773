"""A cluster that passes every check, and variants of it that differ in one fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import RotationSettings, Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence, Replica, ReplicaState
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.hardening.checklist import judge
from kube_rewrap.scheduler.hardening.facts import DAY, Ages, Check, FileFacts, HardeningFacts, SocketFacts, State
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.worker.etcd.grants import Access, Exposure
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason
from tests.unit.scheduler.backups.backups import backup

NOW = 1_000 * DAY
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)
MATERIAL = {"one": b"CanaryKey-one-0123456789-abcdef!", "two": b"CanaryKey-two-0123456789-abcdef!"}
NEVER = "no complete campaign over everything is on record under this configuration"
NOTHING = "a client without certificate and password gets no data"
UNCLEAR = "whether it answers a client without certificate and password can't be determined"
SHARED = "the same key material serves as more than one key"
DEFAULT = "assumed to be etcd's default (set --quota-bytes if it is not)"
IDENTITY = IdentityProvider()
WARN, FAIL, UNKNOWN, PASS = State.WARN, State.FAIL, State.UNKNOWN, State.PASS

IDS = [
    "primary-encrypts",
    "secrets-covered",
    "configmaps-covered",
    "plaintext",
    "readable",
    "current",
    "proof-age",
    "aescbc",
    "aesgcm-rotation",
    "kms-v1",
    "kms-endpoint",
    "kms-socket",
    "kms-unused",
    "identity-reads",
    "write-budget",
    "key-age",
    "key-material",
    "key-names",
    "old-keys",
    "file-mode",
    "file-owner",
    "directory-mode",
    "etcd-tls",
    "etcd-access",
    "converged",
    "space",
    "backup-age",
]


def keyed(provider: str, *names: str, material: str = "") -> KeyedProvider:
    keys = (Key(name, SecretBytes(MATERIAL[material or name])) for name in names)
    return KeyedProvider(ProviderType(provider), tuple(keys))


def kms(version: str, name: str = "vault", endpoint: str = "unix:///kms.sock") -> KmsProvider:
    return KmsProvider("v1" if version == "v1" else "v2", name, endpoint, 3.0, None)


def ref(provider: str, name: str) -> KeyRef:
    return KeyRef(provider, name, SecretBytes(MATERIAL[name]).fingerprint(provider))


def entries(*pairs: tuple[Sequence[str], Sequence[Provider]]) -> EncryptionConfiguration:
    return EncryptionConfiguration(tuple(ResourceEntry(tuple(names), tuple(chain)) for names, chain in pairs))


BOTH = ("secrets", "configmaps")
GCM, GCM_TWO, BOX = ref("aesgcm", "one"), ref("aesgcm", "two"), ref("secretbox", "one")


def tally(
    under: dict[KeyRef, int], *reasons: Reason, resource: str = "secrets", configured: tuple[KeyRef, ...] = (GCM,)
) -> ResourceTally:
    found = ResourceTally(resource, configured[0], configured)
    for key, count in under.items():
        for _ in range(count):
            found.add_readable(key, 100, 1)
    for number, reason in enumerate(reasons):
        found.add_unreadable(b"/registry/%s/n/o%d" % (resource.encode(), number), Quarantine(reason, "why"))
    return found


def proof(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> Inventory:
    return Inventory(77, tallies, unknown)


def facts(configuration: EncryptionConfiguration | None = None) -> HardeningFacts:
    """A cluster where nothing is to be found fault with; another configuration changes that alone."""
    configuration = configuration or entries((BOTH, [keyed("aesgcm", "one")]))
    return HardeningFacts(
        settings=Settings(rotation=RotationSettings(auto=True)),
        ages=Ages(90 * DAY, 7 * DAY),
        now=NOW,
        configuration=configuration,
        generation=describe(Generation("sha256:0", configuration, "enc.yaml")),
        proof=proof(tally({GCM: 3}), tally({GCM: 2}, resource="configmaps")),
        keys=(KeyVerdict(GCM, 5, ("it is the primary of secrets",)),),
        convergence=Convergence(is_converged=True, file_hash="sha256:0", because="all kube-apiservers (3) run it"),
        budgets={GCM.fingerprint: Budget(fingerprint=GCM.fingerprint, provider="aesgcm", names=("one",), reserved=10)},
        watched={GCM.fingerprint: NOW - 5 * DAY},
        made={GCM.fingerprint: NOW - 10 * DAY},
        file=FileFacts("/etc/enc.yaml", 0o600, 0, NOW - DAY, (("/etc", 0o755),)),
        exposures=(Exposure("https://10.0.0.1:2379", secure=True, local=False, access=Access.REFUSES),),
        proof_revision=70,
        proven_at=NOW - 2 * DAY,
        quarantined=(),
        stuck=0,
        room=Room(50, 100, None),
        quota_told=True,
        silent=(),
        catalogue=Catalogue((backup(made=NOW - DAY),)),
    )


GOOD = facts()


def line(given: HardeningFacts, name: str) -> Check:
    [found] = [check for check in judge(given) if check.id == name]
    return found


NOBODY = Convergence(is_converged=False, file_hash="sha256:0", because="no address of a kube-apiserver is given")
LAGGING = Replica("https://a", "", "", ReplicaState.OTHER, "sha256:1", "https://a runs sha256:1")
WITH_OLD = replace(
    facts(entries((BOTH, [keyed("aesgcm", "one", "two")]))),
    keys=(*GOOD.keys, KeyVerdict(GCM_TWO, 0, ())),
    budgets={
        **GOOD.budgets,
        GCM_TWO.fingerprint: Budget(fingerprint=GCM_TWO.fingerprint, provider="aesgcm", reserved=200_000),
    },
)
OF_KMS = facts(entries((BOTH, [kms("v2")])))
ONLY_IDENTITY = facts(entries((BOTH, [IDENTITY])))


def used(count: int, *, restored: bool = False) -> HardeningFacts:
    return replace(
        GOOD,
        budgets={
            GCM.fingerprint: Budget(fingerprint=GCM.fingerprint, provider="aesgcm", reserved=count, restored=restored)
        },
    )


def scanned(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> HardeningFacts:
    return replace(GOOD, proof=proof(*tallies, unknown=unknown))


def under_kms(*others: Reason) -> HardeningFacts:
    vault = KeyRef("kms", "vault", "kms")
    found = tally({GCM: 1}, *others, configured=(GCM, vault))
    for name in (b"k1", b"k2"):
        found.add_unreadable(b"/registry/secrets/n/" + name, Quarantine(Reason.KMS_REFUSED, "why", (vault,)))
    return scanned(found)


def old_key(*blockers: str, objects: int = 0) -> HardeningFacts:
    return replace(WITH_OLD, keys=(*GOOD.keys, KeyVerdict(GCM_TWO, objects, blockers)))


def endpoint(
    url: str, access: Access, because: str = "", *, secure: bool = True, local: bool = False
) -> HardeningFacts:
    return replace(GOOD, exposures=(*GOOD.exposures, Exposure(url, secure, local, access, because)))


def file(mode: int = 0o600, owner: int = 0, directory: int = 0o700) -> HardeningFacts:
    return replace(GOOD, file=FileFacts("/e/enc.yaml", mode, owner, NOW - DAY, (("/e", directory),)))


SOCKET = "/run/kms/kms.sock"


def sockets(**values: Any) -> HardeningFacts:
    """One plugin's socket, which nothing is wrong with but for these values."""
    fine = SocketFacts("vault", SOCKET, mode=0o660, directory_mode=0o750)
    return replace(GOOD, sockets=(replace(fine, **values),))


FULL = "etcd would hold 81.0 MiB, past 80% of its quota of 100.0 MiB"
PASSED_OVER = ("/x/",)


def require(given: HardeningFacts, name: str, state: State, reason: str) -> None:
    """Assert the result of one check: a remedy unless it passes, and no key byte in any line."""
    check = line(given, name)
    assert (check.state, check.reason) == (state, reason)
    assert bool(check.remedy) == (state is not PASS)
    assert "CanaryKey" not in repr(judge(given))
