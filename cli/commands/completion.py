"""`rewrap completion SHELL`: the completions of a shell, made from the parser."""

from __future__ import annotations

import argparse

import shtab

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.output import say
from kube_rewrap.cli.parser import build_parser


def run(args: argparse.Namespace) -> int:
    """Print the script; the shell reads it at its start (docs/install.md)."""
    for line in shtab.complete(build_parser(), shell=args.shell).splitlines():
        say(line)
    return Exit.DONE
