"""What a command says reaches a pipe at once, while the command goes on to wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("call", "line"),
    [
        pytest.param("say('put it in place')", b"put it in place\n", id="a line"),
        pytest.param("print_table(('HEAD',), [('cell',)])", b"HEAD\n", id="a table"),
        pytest.param("print_json({})", b"{}\n", id="a document"),
    ],
)
@pytest.mark.timeout(20)
def test_whoever_reads_a_pipe_has_it_while_the_command_still_waits(call: str, line: bytes) -> None:
    program = f"import sys; import kube_rewrap.cli.output as output; output.{call}; sys.stdin.read()"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # It ends only when this test lets it: what is read before that was flushed.
        assert process.stdout.readline() == line
    finally:
        process.kill()
        process.communicate(timeout=10)
