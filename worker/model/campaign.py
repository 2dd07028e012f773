"""A campaign: all the work that one generation of the EncryptionConfiguration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class CampaignState(StrEnum):
    """Where a campaign stands. `complete` is said by a proof scan only."""

    RUNNING = "running"
    PROVING = "proving"
    PAUSED = "paused"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens to the campaign."""
        return self in {
            CampaignState.COMPLETE,
            CampaignState.INCOMPLETE,
            CampaignState.SUPERSEDED,
            CampaignState.CANCELLED,
        }


class Pause(StrEnum):
    """Who or what paused a campaign. An operator's pause ends by an operator's word only.

    `scheduler`: resumed by an operator, and nothing is written until the scheduler saw that it may be.
    """

    OPERATOR = "operator"
    SCHEDULER = "scheduler"
    SPACE = "space"
    BUDGET = "budget"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a campaign covers: resources by name, and some namespaces or (none given) all."""

    resources: tuple[str, ...]
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """How a campaign is to be done, as it was asked for.

    `rate` is its own ceiling in objects a second, 0 = that of the service. Campaigns that wait begin in
    the order of `priority`, the higher first. An identity primary decrypts only with `allow_plaintext`.
    `paused` lets the campaign begin at rest: an operator's word that came before it. Without `allow_empty` a
    namespace or resource that is named and holds no object is refused. `repair`: the service's own answer to
    drift, of which the audit log has a sum.
    """

    reason: str = ""
    rate: float = 0.0
    priority: int = 0
    allow_plaintext: bool = False
    paused: bool = False
    allow_empty: bool = False
    repair: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "reason": self.reason,
            "rate": self.rate,
            "priority": self.priority,
            "allow_plaintext": self.allow_plaintext,
            "paused": self.paused,
            "allow_empty": self.allow_empty,
            "repair": self.repair,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Wish:
        """Read the JSON form. Raises ValueError where it is not one."""
        match value:
            case {
                "reason": str(reason),
                "rate": int() | float() as rate,
                "priority": int(priority),
                "allow_plaintext": bool(allow_plaintext),
            }:
                return cls(
                    reason,
                    float(rate),
                    priority,
                    allow_plaintext,
                    paused=value.get("paused") is True,
                    allow_empty=value.get("allow_empty") is True,
                    repair=value.get("repair") is True,
                )
        raise ValueError("not a wish for a campaign")


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign's record. `batches` is their number; `because` says why the state is what it is.

    Times are ISO 8601 in UTC. `sweeps` counts how often its batches were begun; `proof_revision` is the
    revision of the last proof scan, 0 before. `paused_for` is set in the state `paused` only.
    """

    id: str
    state: CampaignState
    generation: str
    scope: Scope
    batches: int
    planned_at: str
    because: str
    sweeps: int = 1
    proof_revision: int = 0
    wish: Wish = NO_WISH
    paused_for: Pause | None = None
    ended_at: str = ""

    def moved(self, state: CampaignState, because: str, *, proof_revision: int = 0) -> Campaign:
        """Return the campaign in another state, with the reason for it."""
        return replace(
            self, state=state, because=because, proof_revision=proof_revision or self.proof_revision, paused_for=None
        )

    def paused(self, cause: Pause, because: str) -> Campaign:
        """Return the campaign at rest."""
        return replace(self.moved(CampaignState.PAUSED, because), paused_for=cause)

    def log_context(self) -> dict[str, object]:
        """Return the fields that every log line about this campaign carries."""
        return {"campaign": self.id, "generation": self.generation, "state": self.state.value}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "id": self.id,
            "state": self.state.value,
            "generation": self.generation,
            "resources": list(self.scope.resources),
            "namespaces": list(self.scope.namespaces),
            "batches": self.batches,
            "planned_at": self.planned_at,
            "because": self.because,
            "sweeps": self.sweeps,
            "proof_revision": self.proof_revision,
            "wish": self.wish.to_json(),
            "paused_for": self.paused_for.value if self.paused_for else None,
            "ended_at": self.ended_at,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Campaign:
        """Read the JSON form. Raises ValueError where it is not one."""
        match value:
            case {
                "id": str(name),
                "state": str(state),
                "generation": str(generation),
                "resources": list(resources),
                "namespaces": list(namespaces),
                "batches": int(batches),
                "planned_at": str(planned_at),
                "because": str(because),
                "sweeps": int(sweeps),
                "proof_revision": int(proof_revision),
                "wish": dict(wish),
                "paused_for": None | str() as cause,
                "ended_at": str(ended_at),
            }:
                return cls(
                    name,
                    CampaignState(state),
                    generation,
                    Scope(tuple(map(str, resources)), tuple(map(str, namespaces))),
                    batches,
                    planned_at,
                    because,
                    sweeps,
                    proof_revision,
                    Wish.from_json(wish),
                    Pause(cause) if cause is not None else None,
                    ended_at,
                )
        raise ValueError("not a campaign")
