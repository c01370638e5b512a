"""What a model of the store says for requests that do not say it themselves. Pure.

It was written by whoever made the model, so what has another form than Ollama takes is left out.

Source: Ollama, server/images.go, GetModel; api/types.go, Options.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from sollol.sharding.ollama_store import StoredModel
from sollol.types import ModelDefaults

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1024
_INT32 = 2**31
_ROLES = ("system", "user", "assistant")
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_INTEGERS = ("top_k", "seed", "repeat_last_n", "num_predict", "num_keep")


def model_defaults(stored: StoredModel) -> ModelDefaults:
    """Return what a model says for requests."""
    return ModelDefaults(
        stored.system or "", examples_of(stored.messages), options_of(stored.parameters)
    )


def examples_of(messages: str | None) -> tuple[Mapping[str, str], ...]:
    """Return the messages of text that a model has, each with ``role`` and ``content``.

    Args:
        messages: the layer of this name, a JSON list.
    """
    told = _decoded(messages)
    return tuple(_examples(told)) if isinstance(told, list) else ()


def options_of(parameters: str | None) -> dict[str, Any]:
    """Return a model's parameters as options of a request, without those of the runner.

    Args:
        parameters: the layer ``params``, a JSON object.
    """
    told = _decoded(parameters)
    if not isinstance(told, dict):
        return {}
    floats = {name: told[name] for name in _FLOATS if _is_float(told.get(name))}
    integers = {name: told[name] for name in _INTEGERS if _is_integer(told.get(name))}
    stops = _stops(told.get("stop"))
    return floats | integers | ({"stop": stops} if stops else {})


def context_of(parameters: str | None) -> int | None:
    """Return the tokens of context that a model asks for (``num_ctx``); None if it does not."""
    told = _decoded(parameters)
    context = told.get("num_ctx") if isinstance(told, dict) else None
    return context if type(context) is int and 0 < context < _INT32 else None


def _decoded(text: str | None) -> Any:
    try:
        return msgspec.json.decode(text or "null")
    except (msgspec.DecodeError, RecursionError):
        return None


def _examples(messages: list[Any]) -> Iterator[Mapping[str, str]]:
    for message in messages:
        told = message if isinstance(message, dict) else {}
        role, content = told.get("role"), told.get("content")
        if role in _ROLES and content and isinstance(content, str):
            yield {"role": role, "content": content}


def _is_float(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < _INT32


def _is_integer(value: Any) -> bool:
    return type(value) is int and -1 <= value < _INT32


def _stops(stops: Any) -> list[str]:
    texts = [stops] if isinstance(stops, str) else stops if isinstance(stops, list) else []
    return [
        text
        for text in texts[:MAX_STOPS]
        if isinstance(text, str) and 0 < len(text) <= MAX_STOP_CHARACTERS
    ]
