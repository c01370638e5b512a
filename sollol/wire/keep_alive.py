"""``keep_alive`` as Ollama reads it: a number of seconds or a Go duration."""

import re

from sollol.errors import InvalidRequest
from sollol.wire.gotext import quote

_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # both signs for micro
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_NUMBER_AND_UNIT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
_GO_TYPES: dict[type, str] = {
    bool: "bool",
    dict: "map[string]interface {}",
    list: "[]interface {}",
}


def keep_alive_s(value: object) -> float | None:
    """Return seconds, infinite for any negative value; ``None`` when the request gave none.

    Raises:
        InvalidRequest: neither a number nor a duration, in Ollama's words.

    Source: Go, ``time.ParseDuration``.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _or_forever(_duration_s(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _or_forever(float(value))
    raise InvalidRequest(f"Unsupported type: '{_GO_TYPES.get(type(value), 'nil')}'")


def means_unload(value: object) -> bool:
    """Whether a request without a prompt and with this ``keep_alive`` unloads its model."""
    seconds = keep_alive_s(value)
    return seconds is not None and seconds < 1


def _or_forever(seconds: float) -> float:
    return float("inf") if seconds < 0 else seconds


def _duration_s(text: str) -> float:
    quoted = quote(text)
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise InvalidRequest(f"time: invalid duration {quoted}")
    seconds = 0.0
    while rest:
        match = _NUMBER_AND_UNIT.match(rest)
        if match is None:
            raise InvalidRequest(f"time: invalid duration {quoted}")
        number, unit = match.groups()
        if not unit:
            raise InvalidRequest(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS_S:
            raise InvalidRequest(f"time: unknown unit {quote(unit)} in duration {quoted}")
        seconds += float(number) * _UNITS_S[unit]
        rest = rest[match.end() :]
    return -seconds if negative else seconds
