"""Which keys may be destroyed, as JSON and as text. No decisions: `scheduler.keys.destruction` makes them."""

from __future__ import annotations

from collections.abc import Sequence

from kube_rewrap.cli.output import print_table, say
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.keys.destruction import DESTRUCTION, Destruction
from kube_rewrap.scheduler.keys.removal import KEKS


def destruction_json(judged: Sequence[Destruction] | None) -> list[dict[str, object]] | None:
    """Return the rows of the document; None without a catalogue."""
    return None if judged is None else [one.to_json() for one in judged]


def print_destruction(judged: Sequence[Destruction] | None) -> None:
    """Print for each key where it is, which backups need it, and the blockers of its destruction."""
    if judged is None:
        return
    heads = ("PROVIDER", "KEY", "FINGERPRINT", "IN FILE", "OBJECTS", "BACKUPS", "UNTIL", "DESTROYABLE")
    print_table(heads, [_row(one) for one in judged])
    say()
    blockers = list(dict.fromkeys(blocker for one in judged for blocker in one.blockers))
    if blockers:
        say("Not destroyable because:")
        for blocker in blockers:
            names = ", ".join(_short(one) for one in judged if blocker in one.blockers)
            say(f"  {names}: {blocker}")
    for one in judged:
        if one.destroyable:
            files = ", ".join(one.candidate.files) or "no given file"
            say(f"{_short(one)} may be destroyed; it is in {files}")
    if any(one.destroyable for one in judged):
        say(DESTRUCTION)
    if any(one.destroyable and one.candidate.key.provider == ProviderType.KMS for one in judged):
        say(KEKS)
    say()


def _row(one: Destruction) -> Sequence[object]:
    candidate = one.candidate
    return (
        candidate.key.provider,
        ", ".join(candidate.names),
        candidate.key.fingerprint,
        "yes" if candidate.configured else "no",
        "-" if candidate.in_use is None else candidate.in_use,
        one.needed_by,
        "-" if not one.needed_by else one.until[:16] if one.until else "not known",
        "yes" if one.destroyable else "no",
    )


def _short(one: Destruction) -> str:
    return f"{', '.join(one.candidate.names)} ({one.candidate.key.fingerprint})"
