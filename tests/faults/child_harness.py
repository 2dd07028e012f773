"""A child process of a run, with the kill points of `harness.py`: `python -m tests.faults.child_harness WORDS`."""

from __future__ import annotations

import os
import sys

from kube_rewrap.cli.child import main
from tests.faults.harness import Killer, install

if __name__ == "__main__":
    install(Killer(os.environ.get("KILL_CHILD_AT", ""), f"{os.environ['ENCRYPTIONS']}.killed"))
    main(int(sys.argv[1]), sys.argv[2])
