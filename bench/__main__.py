"""`make bench`: compares rates within one run, so that the machine's speed cancels out of the ratios."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine

import uvloop

from bench import backups, foreground, kms, memory, processes, records, rewriting, scale, scanning, service
from bench.ground import Ground, ground
from kube_rewrap.config.settings.logs import configure_logs
from kube_rewrap.config.settings.schema import LogSettings

ON_ONE_ETCD: dict[str, Callable[[Ground], Coroutine[object, object, None]]] = {
    "rewriting": rewriting.compare,
    "processes": processes.compare,
    "kms": kms.compare,
    "scanning": scanning.compare,
    "foreground": foreground.compare,  # not among those of `make bench` without arguments
    "backups": backups.compare,  # not among those of `make bench` without arguments
    "backups-million": backups.compare_million,  # the same
    "records": records.compare,  # not among those of `make bench` without arguments
    "service": service.compare,
}

_INTERRUPTED = 130


def main(names: list[str]) -> None:
    try:
        _run(names)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _run(names: list[str]) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as in `rewrap`
    configure_logs(LogSettings(level="warning"), "bench")
    # As Ctrl-C: the blocks that started etcd, Redis and daemons end, and stop them. A shell starts background jobs with
    # SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    wanted = names or ["rewriting", "processes", "kms", "scanning", "memory", "service"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in wanted:
            print(f"\n== {name}", flush=True)
            if name in ON_ONE_ETCD:
                with ground() as place:
                    runner.run(ON_ONE_ETCD[name](place))
                continue
            match name:
                case "memory":
                    runner.run(memory.compare())
                case "scale":  # not among those of `make bench` without arguments: it takes an hour
                    runner.run(scale.compare(scale.SIZES))
                case "scale-million":
                    runner.run(scale.compare((*scale.SIZES, scale.MILLION)))
                case _ if name in ON_ONE_ETCD:
                    with ground() as place:
                        runner.run(ON_ONE_ETCD[name](place))
                case _:
                    sys.exit(f"no benchmark {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
