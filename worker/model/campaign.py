"""A campaign: all the work that one generation of the EncryptionConfiguration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class CampaignState(StrEnum):
    """Where a campaign stands. `complete` is said by a proof scan only."""

    RUNNING = "running"
    PROVING = "proving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    SUPERSEDED = "superseded"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens to the campaign."""
        return self in {CampaignState.COMPLETE, CampaignState.INCOMPLETE, CampaignState.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a campaign covers: resources by name, and one namespace or (None) all."""

    resources: tuple[str, ...]
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign's record. `batches` is their number; `because` says why the state is what it is.

    Times are ISO 8601 in UTC. `sweeps` counts how often its batches were begun; `proof_revision` is the
    revision of the last proof scan, 0 before.
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

    def moved(self, state: CampaignState, because: str, *, proof_revision: int = 0) -> Campaign:
        """Return the campaign in another state, with the reason for it."""
        return replace(self, state=state, because=because, proof_revision=proof_revision or self.proof_revision)

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
            "namespace": self.scope.namespace,
            "batches": self.batches,
            "planned_at": self.planned_at,
            "because": self.because,
            "sweeps": self.sweeps,
            "proof_revision": self.proof_revision,
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
                "namespace": None | str() as namespace,
                "batches": int(batches),
                "planned_at": str(planned_at),
                "because": str(because),
                "sweeps": int(sweeps),
                "proof_revision": int(proof_revision),
            }:
                return cls(
                    name,
                    CampaignState(state),
                    generation,
                    Scope(tuple(str(resource) for resource in resources), namespace),
                    batches,
                    planned_at,
                    because,
                    sweeps,
                    proof_revision,
                )
        raise ValueError("not a campaign")
