"""`rewrap keys`: the write budgets, and the acceptance of one that was restored."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from config.flags import BUDGET, ETCD
from scheduler.cli.exits import Exit
from scheduler.cli.options import add_configuration, add_output, add_settings, add_text, read_generation, read_settings

if TYPE_CHECKING:
    from config.settings import BudgetSettings
    from worker.model.budget import Budget

NOTE = (
    "Counts this tool's own encryptions, and what a scheduler observed others write; what was written before a key was "
    "first seen is estimated. Without a scheduler that observes, later writes of kube-apiserver are not counted."
)

_COLUMNS = (
    *("fingerprint", "provider", "names", "reserved", "observed", "estimated", "used"),
    *("limit", "state", "collision_probability"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_text(parser, "--accept", "accept the budget of a restored key as it is", "FINGERPRINT")
    add_configuration(parser)
    add_settings(parser, ETCD, BUDGET)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the budgets of all configured keys. Exit 2 when --accept names a key without a budget."""
    from scheduler.cli.running import run_async

    return run_async(lambda: _keys(args))


async def _keys(args: argparse.Namespace) -> int:
    from config.errors import Fault, SettingsError
    from scheduler.cli.output import print_json, print_table, say
    from scheduler.service import open_service

    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    async with open_service(settings, generation) as service:
        if args.accept is not None and await service.engine.ledger.accept(args.accept) is None:
            fault = Fault("--accept", "no budget is on record for this fingerprint", "see `rewrap keys`")
            raise SettingsError("command line", (fault,))
        budgets = await service.budgets()
    rows = [_row(budget, settings.budget) for budget in budgets]
    if args.output == "json":
        print_json({"keys": rows, "note": NOTE})
        return Exit.DONE
    heads = [column.upper().replace("_", " ") for column in _COLUMNS]
    print_table(heads, [[_cell(row[column]) for column in _COLUMNS] for row in rows])
    say()
    say(NOTE)
    return Exit.DONE


def _row(budget: Budget, settings: BudgetSettings) -> dict[str, object]:
    return {
        "fingerprint": budget.fingerprint,
        "provider": budget.provider,
        "names": list(budget.names),
        "reserved": budget.reserved,
        "committed": budget.committed,
        "observed": budget.observed,
        "estimated": budget.estimated,
        "used": budget.used,
        "limit": budget.limit(settings.gcm_limit),
        "state": budget.state(settings.gcm_limit, settings.due_at).value,
        "collision_probability": budget.collision_probability,
    }


def _cell(value: object) -> object:
    match value:
        case None:
            return "-"
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:.1e}"
    return value
