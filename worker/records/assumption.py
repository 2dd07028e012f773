"""An operator's statement that all kube-apiservers run a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.fields import Fields


@dataclass(frozen=True, slots=True)
class Assumption:
    """The hash of the configuration's bytes, why the operator is sure, and when they said so (ISO 8601, UTC).

    It speaks of one configuration by its hash, and of no other.
    """

    generation: str
    reason: str
    at: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"generation": self.generation, "reason": self.reason, "at": self.at}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Assumption:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        return cls(fields.text("generation"), fields.text("reason"), fields.moment("at"))
