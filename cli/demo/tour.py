"""Runs commands of the command line one after another, each shown first as an operator would type it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.main import main
from kube_rewrap.cli.output import say


def tour(commands: Iterable[tuple[Sequence[str], Sequence[str]]]) -> int:
    """Run each command, given as the words to show and the flags to add; returns the first exit code that is not 0."""
    for words, flags in commands:
        say()
        say(f"$ rewrap {' '.join(words)}")
        code = main([*words, *flags])
        if code != Exit.DONE:
            return code
    return Exit.DONE
