"""Durations as Go writes them (``5m``, ``1h30m``, ``-1s``), and ``keep_alive`` as Ollama reads it.

Source: Go's time.ParseDuration; Ollama, api/types.go, Duration.UnmarshalJSON.
"""

import re
from functools import lru_cache

from msgspec import Raw

from sollol.errors import InvalidBody
from sollol.wire.gojson import decode, kind_name

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_LARGEST_NS = 2**63 - 1
_LONGEST = 1024
"""Characters of a duration that are looked at; no sensible one has more than twenty."""

_CACHED_BYTES = 32

_part = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^.0-9]*)", re.ASCII).match
_UNUSUAL = re.compile(r'["\\]|[^ -\x7f]')


def parse_duration(text: str) -> int:
    """Return a duration in nanoseconds.

    Raises:
        ValueError: not a duration, or one of more than 292 years; the text is Go's.
    """
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0
    invalid = ValueError(f"time: invalid duration {_quote(text)}")
    if not unsigned or len(text) > _LONGEST:
        raise invalid
    total_ns, at = 0, 0
    while at < len(unsigned):
        match = _part(unsigned, at)
        assert match is not None  # it matches the empty text
        total_ns += _part_ns(match, text, invalid)
        at = match.end()
    if total_ns > _LARGEST_NS + text.startswith("-"):
        raise invalid
    return -total_ns if text.startswith("-") else total_ns


def is_zero_keep_alive(raw: Raw) -> bool:
    """Return whether a ``keep_alive`` asks to unload the model right after the request.

    Args:
        raw: the field's JSON text: seconds as a number, or a duration as a string.

    Raises:
        InvalidBody: neither of these; the text is Ollama's.
    """
    text = bytes(raw)
    return _is_zero_cached(text) if len(text) <= _CACHED_BYTES else _is_zero(text)


def keep_alive_s(raw: Raw) -> float | None:
    """Return what a ``keep_alive`` says, in seconds, negative for ever; None for null.

    Args:
        raw: the field's JSON text, for which :func:`is_zero_keep_alive` did not fail.
    """
    text = decode(raw)
    return parse_duration(text) / 1e9 if isinstance(text, str) else text


def _is_zero(json_text: bytes) -> bool:
    kind = kind_name(json_text)
    if kind == "null":
        return False
    if kind == "number":
        return _is_zero_number(json_text)
    if kind != "string":
        raise InvalidBody(f"Unsupported type: '{_GO_TYPES[kind]}'")
    try:
        return parse_duration(decode(Raw(json_text))) == 0
    except ValueError as error:
        raise InvalidBody(str(error)) from error


_is_zero_cached = lru_cache(maxsize=256)(_is_zero)

_GO_TYPES = {"array": "[]interface {}", "object": "map[string]interface {}", "bool": "bool"}


def _is_zero_number(json_text: bytes) -> bool:
    seconds = float(json_text)
    if seconds in (float("inf"), float("-inf")):
        number = json_text.decode()
        raise InvalidBody(f"json: cannot unmarshal number {number} into Go value of type float64")
    return 0 <= seconds * 1e9 < 1


def _part_ns(match: re.Match[str], text: str, invalid: ValueError) -> int:
    """Return the nanoseconds of one number with its unit."""
    whole, fraction, unit = match.groups()
    if not whole and not fraction:
        raise invalid
    if int(whole or "0") > _LARGEST_NS + 1:
        raise invalid
    if not unit:
        raise ValueError(f"time: missing unit in duration {_quote(text)}")
    unit_ns = _UNITS_NS.get(unit)
    if unit_ns is None:
        raise ValueError(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
    part_ns = int(whole or "0") * unit_ns + int(float(f"0.{fraction or '0'}") * unit_ns)
    if part_ns > _LARGEST_NS + 1:
        raise invalid
    return part_ns


def _quote(text: str) -> str:
    """Return a text as package time quotes it: bytes outside ASCII in hexadecimal."""
    return f'"{_UNUSUAL.sub(_escaped, text)}"'


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    if char in '"\\':
        return f"\\{char}"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
