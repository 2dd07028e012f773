"""An operator's statement that all kube-apiservers run a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kube_rewrap.worker.records.form import Form, Moment, Named, Text


@dataclass(frozen=True, slots=True)
class Assumption(Form):
    """One statement about the file with this hash, and about no other one.

    `reason` is why the operator is sure, `at` the time of the statement (ISO 8601, UTC).
    """

    file_hash: Annotated[Text, Named(former="generation")]
    reason: Text
    at: Moment
