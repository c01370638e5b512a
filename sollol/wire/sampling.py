"""Ollama's ``options`` as llama-server's sampling fields.

Ollama's own defaults are always sent: llama-server has others (``min_p`` 0.05, ``top_p`` 0.95),
and the same request should behave the same on both.
"""

from collections.abc import Mapping
from typing import Any

from sollol.errors import InvalidOption
from sollol.wire.gotext import quote

_INT32_MAX = 2**31 - 1

_DEFAULTS: dict[str, int | float] = {
    "num_keep": 4,
    "seed": -1,
    "num_predict": -1,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "temperature": 0.8,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_RUNNER_INTEGERS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"}
)
_NAMES = {"num_keep": "n_keep"}


def sampling_fields(options: Mapping[str, Any], *, length_field: str) -> dict[str, Any]:
    """Return the sampling fields of a request body.

    Runner options are checked and dropped: a llama-server has its context and its layers for life.

    Args:
        options: the request's ``options``; unknown names are ignored, as Ollama does.
        length_field: what the route calls the bound on output tokens.

    Raises:
        InvalidOption: a value of the wrong type, in Ollama's words.
    """
    values: dict[str, Any] = dict(_DEFAULTS)
    for name, value in options.items():
        if value is not None:
            _check(name, value)
            values[name] = value
    fields: dict[str, Any] = {
        _NAMES.get(name, name): _number(name, values[name]) for name in _DEFAULTS
    }
    limit = fields.pop("num_predict")
    fields[length_field] = max(limit, -1)  # -2, "fill the context", is what -1 does there
    if stop := values.get("stop"):
        fields["stop"] = [stop] if isinstance(stop, str) else stop
    return fields


def _number(name: str, value: float) -> int | float:
    if not isinstance(_DEFAULTS[name], int):
        return value
    return max(-_INT32_MAX, min(_INT32_MAX, int(value)))


def _check(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "stop":
        _check_stop(value)
    elif name == "use_mmap":
        _require(isinstance(value, bool), name, "type boolean")
    elif name in _RUNNER_INTEGERS or isinstance(_DEFAULTS.get(name), int):
        _require(is_number, name, "type integer")
    elif name in _DEFAULTS:
        _require(is_number, name, "type float32")


def _check_stop(value: object) -> None:
    if isinstance(value, str):  # Ollama refuses one string; OpenAI clients send it
        return
    _require(isinstance(value, list), "stop", "type array")
    assert isinstance(value, list)
    _require(all(isinstance(item, str) for item in value), "stop", "an array of strings")


def _require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise InvalidOption(f"option {quote(name)} must be of {wanted}")
