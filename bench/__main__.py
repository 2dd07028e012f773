"""`make bench`: compares rates within one run, so that the machine's speed cancels out of the ratios."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from bench import kms, memory, processes, rewriting, scale, scanning, service
from bench.ground import ground
from kube_rewrap.config.settings.logs import configure_logs
from kube_rewrap.config.settings.schema import LogSettings


def main(names: list[str]) -> None:
    configure_logs(LogSettings(level="warning"), "bench")
    wanted = names or ["rewriting", "processes", "kms", "scanning", "memory", "service"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for name in wanted:
            print(f"\n== {name}", flush=True)
            match name:
                case "rewriting":
                    with ground() as place:
                        runner.run(rewriting.compare(place))
                case "kms":
                    with ground() as place:
                        runner.run(kms.compare(place))
                case "processes":
                    with ground() as place:
                        runner.run(processes.compare(place))
                case "scanning":
                    with ground() as place:
                        runner.run(scanning.compare(place))
                case "memory":
                    runner.run(memory.compare())
                case "scale":  # not among those of `make bench` without arguments: it takes an hour
                    runner.run(scale.compare(scale.SIZES))
                case "scale-million":
                    runner.run(scale.compare((*scale.SIZES, scale.MILLION)))
                case "service":
                    with ground() as place:
                        runner.run(service.compare(place))
                case _:
                    sys.exit(f"no benchmark {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
