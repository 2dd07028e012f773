"""When a failing plugin is called again."""

from __future__ import annotations

from kube_rewrap.worker.kms.circuit import FAILURES, Circuit


def failed(circuit: Circuit, times: int, now: float = 0.0) -> Circuit:
    for _ in range(times):
        circuit = circuit.failed(now)
    return circuit


def test_one_failure_less_than_the_limit_keeps_it_closed() -> None:
    circuit = failed(Circuit(), FAILURES - 1)
    assert (circuit.state(0.0), circuit.wait(0.0)) == ("closed", 0.0)


def test_the_last_failure_opens_it_for_ten_seconds() -> None:
    circuit = failed(Circuit(), FAILURES, now=100.0)
    assert [circuit.wait(now) for now in (100.0, 109.0, 110.0)] == [10.0, 1.0, 0.0]
    assert [circuit.state(now) for now in (100.0, 109.9, 110.0)] == ["open", "open", "half_open"]


def test_each_failed_probe_opens_it_for_ten_seconds_more_up_to_a_minute() -> None:
    circuit, now, waits = failed(Circuit(), FAILURES), 0.0, []
    for _ in range(8):
        waits.append(circuit.wait(now))
        now += waits[-1]
        circuit = circuit.failed(now)
    assert waits == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 60.0, 60.0]


def test_calls_that_were_in_flight_when_it_opened_do_not_open_it_for_longer() -> None:
    opened = failed(Circuit(), FAILURES)
    assert failed(opened, 3, now=9.0) == opened


def test_jitter_lengthens_the_wait() -> None:
    assert failed(Circuit(), FAILURES - 1).failed(0.0, jitter=1.1).wait(0.0) == 11.0
