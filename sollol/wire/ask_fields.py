"""Fields of a body that say how an answer is to be made: options, limits, thinking, formats.

What has another type than its field counts as absent.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from sollol.wire.turns import read
from sollol.wire.wishes import Formatted, Typed

_INT64 = 2**63
_CACHED_BYTES = 256
_NULL, _TRUE, _EMPTY = Raw(b"null"), Raw(b"true"), Raw(b'""')
_NO_FORMAT = (None, _NULL, _EMPTY)

Options = tuple[tuple[str, int | float | bool], ...]
Raws = Mapping[str, Raw]


_decode_string = msgspec.json.Decoder(str).decode
_decode_int = msgspec.json.Decoder(int).decode
_decode_options = msgspec.json.Decoder(dict[str, Any]).decode
_decode_typed = msgspec.json.Decoder(Typed).decode
_decode_formatted = msgspec.json.Decoder(Formatted).decode


def read_options(raw: Raw | None) -> tuple[Options, int | None]:
    """Return the runner options that have a value of their type, by name, and ``num_predict``."""
    if raw is None:
        return (), None
    text = bytes(raw)
    return _options_in_short(text) if len(text) <= _CACHED_BYTES else _options_in(text)


def _options_in(text: bytes) -> tuple[Options, int | None]:
    found = read(text, _decode_options)
    if not found:
        return (), None
    limit = _integer(found.get("num_predict"))
    if limit is not None and limit <= 0:
        limit = None
    if _NAMES.isdisjoint(found):
        return (), limit
    options = [
        (name, value)
        for name, typed in _RUNNER_OPTIONS
        if name in found and (value := typed(found[name])) is not None
    ]
    return tuple(options), limit


_options_in_short = lru_cache(maxsize=256)(_options_in)  # most callers have one choice of them


def _integer(value: object) -> int | None:
    """Return a number as Go makes an integer option of it; None for what it refuses."""
    if type(value) is int:
        return value if -_INT64 <= value < _INT64 else None
    if type(value) is float and abs(value) < _INT64:
        return int(value)
    return None


def _boolean(value: object) -> bool | None:
    return value if type(value) is bool else None


def read_limit(raws: Raws, names: Sequence[str]) -> int | None:
    """Return the first positive limit among some fields."""
    for name in names:
        raw = raws.get(name)
        if raw is not None:
            limit = read(raw, _decode_int)
            if limit is not None and limit > 0:
                return limit
    return None


def is_thinking(raws: Raws, names: Sequence[str]) -> bool:
    """Whether one of some fields asks for thinking."""
    for name in names:
        raw = raws.get(name)
        if raw is not None and _is_wanted(raw):
            return True
    return False


def _is_wanted(raw: Raw) -> bool:
    """Whether a value asks for thinking: ``true``, an effort, or Anthropic's object."""
    if raw == _TRUE:
        return True
    level = read(raw, _decode_string)
    if level is None:
        wish = read(raw, _decode_typed)
        if wish is None:
            return False
        if wish.type is not None:
            return wish.type in ("enabled", "adaptive")
        level = wish.effort
    return level not in (None, "", "none")


def has_format(raws: Raws) -> bool:
    """Whether Ollama's ``format`` is set."""
    return raws.get("format") not in _NO_FORMAT


def has_response_format(raws: Raws) -> bool:
    """Whether a chat completion must be JSON."""
    return _is_schema(raws.get("response_format"))


def has_text_format(raws: Raws) -> bool:
    """Whether a response must be JSON."""
    return _is_schema(_format_in(raws.get("text")))


def has_output_format(raws: Raws) -> bool:
    """Whether an answer of Anthropic's API must be JSON."""
    return _is_schema(_format_in(raws.get("output_config")) or raws.get("output_format"))


def never(raws: Raws) -> bool:
    """Return False: the route has no such field."""
    return False


def _format_in(raw: Raw | None) -> Raw | None:
    found = None if raw is None else read(raw, _decode_formatted)
    return None if found is None or found.format == _NULL else found.format


def _is_schema(raw: Raw | None) -> bool:
    found = None if raw is None else read(raw, _decode_typed)
    return found is not None and found.type not in (None, "", "text")


_RUNNER_OPTIONS: tuple[tuple[str, Callable[[object], int | None]], ...] = (
    ("main_gpu", _integer),
    ("num_batch", _integer),
    ("num_ctx", _integer),
    ("num_gpu", _integer),
    ("num_thread", _integer),
    ("use_mmap", _boolean),
)
"""By name: another value than a loaded runner's means that it is loaded anew."""

_NAMES = frozenset(name for name, _ in _RUNNER_OPTIONS)
