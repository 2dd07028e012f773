"""An operator's statement that all kube-apiservers run a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.fields import Fields


@dataclass(frozen=True, slots=True)
class Assumption:
    """One statement about the configuration with the hash `generation`, and about no other one.

    `reason` is why the operator is sure, `at` the time of the statement (ISO 8601, UTC).
    """

    generation: str
    reason: str
    at: str

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"generation": self.generation, "reason": self.reason, "at": self.at}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Assumption:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(fields.text("generation"), fields.text("reason"), fields.moment("at"))
