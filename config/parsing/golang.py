"""Three text formats as Go's standard library reads them: base64, durations, URLs.

Each function returns None for a text that Go refuses. It raises nothing, so that no traceback can hold the text.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")

_UNIT_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]+)")
_INT64_LIMIT = 2**63
_FRACTION_DIGITS = 18

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# In a host Go decodes escapes of non-ASCII bytes only, and %25 in front of an IPv6 zone.
_BAD_HOST_ESCAPE = re.compile(r"%(?!25|[89A-Fa-f][0-9A-Fa-f])")
_BAD_HOST_CHARACTER = re.compile(r"[^A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>\"%\x80-\U0010ffff]")
_BAD_USERINFO = re.compile(r"[^A-Za-z0-9\-._:~!$&'()*+,;=%@]")
_PORT = re.compile(r"(?::[0-9]*)?")


def decode_base64(text: str) -> bytes | None:
    """Decode standard, padded base64 as Go's `base64.StdEncoding`: CR and LF are skipped anywhere, nothing else is.

    Returns None where Go reports an error. Unused bits of the last digit may be set, as in Go.
    """
    compact = text.replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(compact):
        return None
    return binascii.a2b_base64(compact)


def parse_duration(text: str) -> int | None:
    """Read `1h2m3.5s` as Go's `time.ParseDuration`. Returns nanoseconds, None where Go reports an error."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return 0
    if not rest:
        return None
    total, place = 0, 0
    while place < len(rest):
        part = _DURATION_PART.match(rest, place)
        value = _part_nanoseconds(part) if part else None
        if part is None or value is None:
            return None
        total += value
        # The most negative duration is one larger than the most positive one.
        if total > (_INT64_LIMIT if sign < 0 else _INT64_LIMIT - 1):
            return None
        place = part.end()
    return sign * total


def _part_nanoseconds(part: re.Match[str]) -> int | None:
    fraction, unit = part[3] or "", _UNIT_NANOSECONDS.get(part[4])
    whole = part[1].lstrip("0")
    if unit is None or not (part[1] or fraction) or len(whole) > len(str(_INT64_LIMIT)):
        return None
    # Digits past 18 are below a nanosecond even for hours, give or take Go's own rounding.
    digits = fraction[:_FRACTION_DIGITS]
    scale: int = 10 ** len(digits)
    return int(whole or "0") * unit + int(digits or "0") * unit // scale


def url_scheme(text: str) -> str | None:
    """Return the scheme that Go's `url.Parse` finds, in lower case and `""` for none; None where it reports an error.

    Checked: control characters, the place of the first colon, escapes, host and port. Go's `net/url` in 1.24.
    """
    if _CONTROL.search(text):
        return None
    body, _, fragment = text.partition("#")
    if _BAD_ESCAPE.search(fragment) or text.startswith(":"):
        return None
    found = _SCHEME.match(body)
    scheme = found[1].lower() if found else ""
    rest = body[found.end() :] if found else body
    rest = rest.partition("?")[0]
    return scheme if _is_hierarchy(rest, scheme) else None


def url_path(text: str) -> tuple[str, str]:
    """Return (path, lost): what Go's `url.Parse` leaves as Path, and the first part that it takes for something else.

    `text` is a URL that `url_scheme` accepts. Bytes that are no UTF-8 become surrogates, as in `os.fsdecode`.
    """
    body, hash_mark, fragment = text.partition("#")
    found = _SCHEME.match(body)
    rest = body[found.end() :] if found else body
    rest, question_mark, query = rest.partition("?")
    lost = question_mark + query or hash_mark + fragment
    if not rest.startswith("/"):
        return "", rest or lost
    if rest.startswith("//") and (found or not rest.startswith("///")):
        authority, slash, tail = rest[2:].partition("/")
        rest, lost = slash + tail, authority or lost
    return unquote_to_bytes(rest).decode("utf-8", "surrogateescape"), lost


def _is_hierarchy(rest: str, scheme: str) -> bool:
    """Whether Go accepts what follows the scheme, without query and fragment."""
    if not rest.startswith("/"):
        if scheme:
            return True  # an opaque part, which Go leaves as it is
        if ":" in rest.partition("/")[0]:
            return False  # without a scheme the first segment must not hold a colon
        return not _BAD_ESCAPE.search(rest)
    path = rest
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, tail = rest[2:].partition("/")
        if not _is_authority(authority):
            return False
        path = slash + tail
    return not _BAD_ESCAPE.search(path)


def _is_authority(authority: str) -> bool:
    user, at, host = authority.rpartition("@")
    if at and (_BAD_USERINFO.search(user) or _BAD_ESCAPE.search(user)):
        return False
    if _BAD_HOST_CHARACTER.search(host) or _BAD_HOST_ESCAPE.search(host):
        return False
    if host.startswith("["):
        _, bracket, port = host.rpartition("]")
        return bool(bracket) and _PORT.fullmatch(port) is not None
    _, colon, port = host.rpartition(":")
    return not colon or _PORT.fullmatch(colon + port) is not None
