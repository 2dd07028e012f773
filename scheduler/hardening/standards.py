"""How severe each finding of the checklist is, and which items of public guides it speaks to. Pure.

1. Severity depends on the check and on its state: what fails is `critical` or `high`, a warning `medium` or `low`, an
   unknown point `low`, for it may yet fail. A passed check has none.
2. A reference says that a check speaks to an item, not that a pass fulfils the item: the guides ask for more, and for
   other things. CIS' item 1.2.28 accepts aescbc, which the check `aescbc` warns of.

Sources: CIS Kubernetes Benchmark v1.10.0; NSA and CISA, Kubernetes Hardening Guidance v1.2 (August 2022), which names
sections instead of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from kube_rewrap.scheduler.hardening.facts import Check, State


class Severity(StrEnum):
    """How severe a finding is, the least first. The values are stable: JSON output and `--fail-on` hold them."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Its place, the least severe first."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Reference:
    """An item of a public guide; `item` is its number, or the section where the guide has no numbers."""

    guide: str
    version: str
    item: str
    title: str


def _cis(item: str, title: str) -> Reference:
    return Reference("CIS Kubernetes Benchmark", "v1.10.0", item, title)


def _nsa(section: str) -> Reference:
    return Reference("NSA/CISA Kubernetes Hardening Guidance", "v1.2", section, "Network separation and hardening")


_CONFIGURED = _cis("1.2.27", "Ensure that the --encryption-provider-config argument is set as appropriate")
_PROVIDERS = _cis("1.2.28", "Ensure that encryption providers are appropriately configured")
_FILES = _cis("1.1", "Control Plane Node Configuration Files")  # no item of it names this file
_SECRETS, _ETCD = _nsa("Secrets"), _nsa("Control plane hardening: Etcd")

REFERENCES: Mapping[str, tuple[Reference, ...]] = {
    "primary-encrypts": (_CONFIGURED, _PROVIDERS, _SECRETS),
    "secrets-covered": (_CONFIGURED, _SECRETS),
    "configmaps-covered": (_CONFIGURED,),
    "plaintext": (_CONFIGURED, _SECRETS),
    "aescbc": (_PROVIDERS,),
    "aesgcm-rotation": (_PROVIDERS,),
    "kms-v1": (_PROVIDERS,),
    "file-mode": (_FILES,),
    "file-owner": (_FILES,),
    "directory-mode": (_FILES,),
    "etcd-tls": (_cis("2.1", "Ensure that the --cert-file and --key-file arguments are set as appropriate"), _ETCD),
    "etcd-access": (_cis("2.2", "Ensure that the --client-cert-auth argument is set to true"), _ETCD),
}
"""The references of each check that has some, by its id."""

_CRITICAL = {
    "primary-encrypts",
    "secrets-covered",
    "plaintext",
    "readable",
    "kms-socket",
    "write-budget",
    "file-mode",
    "directory-mode",
    "etcd-access",
}
"""Checks whose failure means that data or keys are open, lost, or about to be."""

_MINOR = {"kms-unused", "old-keys", "key-names"}
"""Checks whose warnings are about order rather than about strength."""


def severity_of(check: Check) -> Severity | None:
    """Return how severe a finding is, None for a passed check."""
    match check.state:
        case State.FAIL:
            return Severity.CRITICAL if check.id in _CRITICAL else Severity.HIGH
        case State.WARN:
            return Severity.LOW if check.id in _MINOR else Severity.MEDIUM
        case State.UNKNOWN:
            return Severity.LOW
        case State.PASS:
            return None


def reaches(check: Check, least: Severity) -> bool:
    """Whether a finding is at least as severe as `least`."""
    found = severity_of(check)
    return found is not None and found.rank >= least.rank


def finding_json(check: Check) -> dict[str, object]:
    """Return the JSON form of a check, with its severity (null on pass) and its references."""
    severity = severity_of(check)
    return {
        **check.to_json(),
        "severity": severity.value if severity else None,
        "references": [asdict(one) for one in REFERENCES.get(check.id, ())],
    }
