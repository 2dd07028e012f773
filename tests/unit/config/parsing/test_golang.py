from __future__ import annotations

import pytest

from kube_rewrap.config.parsing.golang import decode_base64, parse_duration, url_scheme


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", b""),
        ("Zm9v", b"foo"),
        ("Zm8=", b"fo"),
        ("Zg==", b"f"),
        ("Zg=\n=", b"f"),
        ("\r\nZm\n9v\r\n", b"foo"),
        ("Zm9=", b"fo"),
        ("Zh==", b"f"),
    ],
)
def test_go_base64_reads(text: str, data: bytes) -> None:
    assert decode_base64(text) == data


@pytest.mark.parametrize(
    "text",
    [
        "Zg",
        "Zg=",
        "Zg===",
        "Z",
        "=",
        "====",
        "Zm9v=",
        "Zm 9v",
        "Zm9v\t",
        "Zm9v ",
        "__8=",
        "-w==",
        "Zg==Zg==",
        "Zmé=",
        "Zm9\u0661",
    ],
)
def test_go_base64_refuses(text: str) -> None:
    assert decode_base64(text) is None


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("3s", 3_000_000_000),
        ("+3s", 3_000_000_000),
        ("-1s", -1_000_000_000),
        ("1h2m3.5s", 3_723_500_000_000),
        ("1.s", 1_000_000_000),
        (".5s", 500_000_000),
        ("0.5ns", 0),
        ("0000000000000000000000000001ms", 1_000_000),
        ("1us1µs1μs", 3_000),
        ("0.100000000000000000000h", 360_000_000_000),
        ("9223372036854775807ns", 2**63 - 1),
        ("-9223372036854775808ns", -(2**63)),
    ],
)
def test_go_durations_read(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "-",
        "3",
        "s",
        ".s",
        "3S",
        "3 s",
        " 3s",
        "1d",
        "1s2",
        "--1s",
        "1e3s",
        "9223372036854775808ns",
        "2562048h",
        "1..s",
        "1" * 5000 + "s",
        "١s",
    ],
)
def test_go_durations_refuse(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("unix:///run/kms.sock", "unix"),
        ("UNIX:///run/kms.sock", "unix"),
        ("unix:///@abstract", "unix"),
        ("unix:run/kms.sock", "unix"),
        ("unix:", "unix"),
        ("unix://host:80/path", "unix"),
        ("unix://user:pass@host/path", "unix"),
        ("unix://[::1]:1/path", "unix"),
        ("unix://[fe80::1%25eth0]/path", "unix"),
        ("unix:///a b?c=%zz", "unix"),
        ("unix:///a%20b#frag", "unix"),
        ("http://x", "http"),
        ("/run/kms.sock", ""),
        ("run/kms.sock", ""),
        ("//host/path", ""),
        ("///path", ""),
        ("", ""),
    ],
)
def test_go_urls_have_a_scheme(text: str, scheme: str) -> None:
    assert url_scheme(text) == scheme


@pytest.mark.parametrize(
    "text",
    [
        ":", "://x", "1unix:///x", "a b:c", "unix:///\x7f", "unix:///a\nb", "unix:///%zz", "unix:///%4", "unix:///x#%zz",
        "unix://host:port/x", "unix://[::1/x", "unix://[::1]x/x", "unix://ho st/x", "unix://%41/x", "unix://u<r@host/x",
        "%zz",
    ],
)  # fmt: skip
def test_go_urls_refuse(text: str) -> None:
    assert url_scheme(text) is None
