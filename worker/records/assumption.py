"""An operator's statement that all kube-apiservers run a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.records.form import Form, Moment, Text


@dataclass(frozen=True, slots=True)
class Assumption(Form):
    """One statement about the configuration with the hash `generation`, and about no other one.

    `reason` is why the operator is sure, `at` the time of the statement (ISO 8601, UTC).
    """

    generation: Text
    reason: Text
    at: Moment
