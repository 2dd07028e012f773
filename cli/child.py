"""A child process of `rewrap run --processes N`: does the jobs that its parent names on standard input.

It takes its settings from the environment, as a worker's child does, and the file that `REWRAP_ENCRYPTION_CONFIG`
names. Arguments: the number of children, which share the limits of one run, and the campaign.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn, TextIO

from kube_rewrap.cli.exit_codes import Exit, exit_of
from kube_rewrap.cli.options import generation_of
from kube_rewrap.cli.output import print_to_stderr
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.flags import EVERY, is_on, variable
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from
from kube_rewrap.scheduler.engine import failure, open_engine, open_parent, paces_of, serve, tell
from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.errors import RefusedError, WorkerError


def main(shares: int, campaign: str) -> None:
    """Serve until standard input ends; exits with the code of the error that ended the process."""
    forbid_core_dumps()
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        run_async(lambda: _serve(shares, campaign, answers), "run-child")
    except ConfigError as error:
        because = f"a child process can't use the configuration that this process has read: {error}"
        _end(error, answers, failure(RefusedError.__name__, because))
    except WorkerError as error:
        _end(error, answers, failure(type(error).__name__, str(error)))
    except Exception as error:
        if os.environ.get("REWRAP_TRACEBACK"):
            raise
        # A library's error may quote its input: name the class, not the text.
        print_to_stderr(f"error: a child process ended: unexpected {type(error).__name__}")
        sys.exit(Exit.UNEXPECTED)


def _end(error: ConfigError | WorkerError, answers: TextIO, answer: Mapping[str, str]) -> NoReturn:
    """Exit with the code of an error; says it to the parent, which has no other answer if the child was not ready."""
    print_to_stderr(f"error: a child process ended: {error}")
    tell(answers, answer)
    sys.exit(exit_of(error))


def with_share_of_reads(settings: Settings, shares: int) -> Settings:
    """Return the settings with one share of the time in which one `rewrap run` reads from etcd."""
    share = settings.pace.share_of_reads
    return settings if share == 1 else replace(settings, pace=replace(settings.pace, read_share=share / shares))


async def _serve(shares: int, campaign: str, answers: TextIO) -> None:
    brake = brake_on_signals()
    settings = with_share_of_reads(settings_from(EVERY, {}, os.environ), shares)
    allow_readable = is_on(os.environ.get(variable("--allow-readable-config"), ""))
    generation = generation_of(os.environ[variable("--encryption-config")], allow_readable=allow_readable)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with open_parent(lines, answers, shares) as parent:
        pace, kms_paces = paces_of(parent, settings)
        async with open_engine(settings, generation, pace, kms_paces) as engine:
            await serve(engine, parent, campaign, brake)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
