"""Whatever bytes lie where a lease should: a lease, none of ours, or a ValueError that names the key."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.scheduler.apiservers.leases import decode_lease
from kube_rewrap.scheduler.apiservers.metrics_parser import PREFIXES, parse_reports
from tests.golden.convergence_recording import LEASE, LEASE_KEY


@given(st.binary(max_size=200).map(lambda tail: b"k8s\x00" + tail) | st.binary(max_size=50) | st.text().map(str.encode))
def test_any_bytes(value: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert decode_lease(LEASE_KEY, value) is None


@given(st.integers(0, len(LEASE) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_recorded_one(place: int, change: int) -> None:
    value = LEASE[:place] + bytes([LEASE[place] ^ change]) + LEASE[place + 1 :]
    try:
        decode_lease(LEASE_KEY, value)
    except ValueError as error:
        assert str(error).startswith(LEASE_KEY.decode())  # noqa: PT017 - only where it is refused


@given(st.lists(st.builds(bytes.__add__, st.sampled_from(PREFIXES), st.binary(max_size=100)), max_size=3))
def test_any_line(lines: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        parse_reports(lines)
