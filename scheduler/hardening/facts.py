"""The facts that the hardening checklist judges, and its result for each point. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.worker.etcd.grants import Exposure
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import KeyRef

DAY = 86_400.0
_NAMED = 5

PLUGIN_REMEDY = 'audit again when the plugin serves (docs/kms.md, "The plugin is down")'


class State(StrEnum):
    """The result of a check. The values are stable: JSON output holds them."""

    PASS = "pass"  # noqa: S105 - a verdict
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist: a stable id, the state, the facts in one sentence, and what to do ("" on pass)."""

    id: str
    state: State
    reason: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"id": self.id, "state": self.state.value, "reason": self.reason, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The configuration file, links followed: permission bits, owner's uid, time of its last change (since 1970).

    `directories` are the parents of its path and of the resolved file, with their permission bits.
    """

    path: str
    mode: int
    owner: int
    changed_at: float
    directories: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """The socket of a KMS plugin as this machine has it, links followed; `address` as `Address.socket`.

    `unseen` says why it could not be looked at, "" = it was; an abstract socket can't. Permission bits and owners' uids
    of the socket and its directory. `is_shielded`: others than owner and group can't search a directory above it.
    """

    provider: str
    address: str
    unseen: str = ""
    is_socket: bool = True
    mode: int = 0
    owner: int = 0
    directory_mode: int = 0
    directory_owner: int = 0
    is_shielded: bool = False


@dataclass(frozen=True, slots=True)
class Ages:
    """Greatest ages in seconds: of a key that writes, of the last proof, and of the newest proven backup."""

    key: float
    proof: float
    backup: float = 2 * DAY


@dataclass(frozen=True, slots=True)
class HardeningFacts:
    """The input of all checks. Times are in seconds since 1970.

    `generation` names the keys of `configuration` without their material, `proof` is a scan of everything that it
    governs, and `keys` are the verdicts on the removal of each key. By fingerprint: `budgets` on record; `watched`,
    the time since when a scheduler counts the writes of others; `made`, when a rotation put the key into the file.
    `proof_revision` is that of the newest complete campaign over everything, 0 = none, and `proven_at` its end, None =
    not on record. `quarantined` names readable objects that the last campaigns, being incomplete, left unwritten: etcd
    key and reason; `stuck` counts all of them. `silent` are endpoints that did not report their size; `quota_told`:
    whether etcd or an operator gave its quota. `keks`: since when a KEK on record is in force, by its provider's name
    and its fingerprint. `missing`: what `proof` could not open, since a KMS plugin does not serve, "" = nothing.
    `sockets`: those of the KMS providers whose endpoints connect to one. `catalogue`: that of the backups, None = none
    is given.
    """

    settings: Settings
    ages: Ages
    now: float
    configuration: EncryptionConfiguration
    generation: GenerationRecord
    proof: Inventory
    keys: tuple[KeyVerdict, ...]
    convergence: Convergence
    budgets: Mapping[str, Budget]
    watched: Mapping[str, float]
    made: Mapping[str, float]
    file: FileFacts
    exposures: tuple[Exposure, ...]
    proof_revision: int
    proven_at: float | None
    quarantined: tuple[str, ...]
    stuck: int
    room: Room
    quota_told: bool
    silent: tuple[str, ...]
    keks: Mapping[tuple[str, str], float] = field(default_factory=dict)
    missing: str = ""
    sockets: tuple[SocketFacts, ...] = ()
    catalogue: Catalogue | None = None

    @property
    def writers(self) -> dict[KeyRef, list[str]]:
        """The keys that write, in the file's order, with the resources as the file names them."""
        found: dict[KeyRef, list[str]] = {}
        for name, chain in self.generation.resources:
            found.setdefault(chain[0], []).append(name)
        return found


def without_names(facts: HardeningFacts) -> HardeningFacts:
    """Return the facts with all counts, and without the name of any object."""
    resources = tuple(replace(tally, listed=[]) for tally in facts.proof.resources)
    return replace(facts, proof=replace(facts.proof, resources=resources), quarantined=())


def named(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def days(seconds: float) -> str:
    """Return a span in days, rounded down."""
    return f"{max(0.0, seconds) // DAY:.0f} days"
