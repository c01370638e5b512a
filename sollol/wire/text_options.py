"""``format`` and ``think`` as llama-server's fields."""

from collections.abc import Mapping
from typing import Any

import msgspec

from sollol.errors import InvalidRequest
from sollol.wire.gotext import quote
from sollol.wire.request_fields import InvalidOption

_THINK_LEVELS = ("high", "medium", "low", "max")
_THINK_CHOICES = '"high", "medium", "low", "max", true, or false'


def think_value(value: object) -> bool | str | None:
    """Return ``think`` as given, checked.

    Raises:
        InvalidRequest: not a boolean or a known level, in Ollama's words.
    """
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InvalidRequest(f"think must be a boolean or string ({_THINK_CHOICES})")
    if value not in _THINK_LEVELS:
        quoted = quote(value)
        raise InvalidRequest(f"invalid think value: {quoted} (must be {_THINK_CHOICES})")
    return value


def chat_thinking(value: object) -> dict[str, Any]:
    """Return the fields that switch thinking; a model that cannot think ignores them.

    Templates know three levels at most, so ``max`` is their highest. Raises as
    :func:`think_value`.
    """
    think = think_value(value)
    fields: dict[str, Any] = {"reasoning_format": "auto"}
    if think is None:
        return fields
    arguments: dict[str, Any] = {"enable_thinking": bool(think)}
    if isinstance(think, str):
        arguments["reasoning_effort"] = "high" if think == "max" else think
    return fields | {"chat_template_kwargs": arguments}


def chat_format(value: object) -> dict[str, Any]:
    """Return the fields for ``format`` of a chat completion.

    Raises:
        InvalidOption: neither ``"json"`` nor a schema, in Ollama's words.
    """
    schema = _schema(value)
    if schema is None:
        return {}
    if not schema:
        return {"response_format": {"type": "json_object", "schema": {"type": "object"}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def native_format(value: object) -> dict[str, Any]:
    """Return the fields for ``format`` of a native completion; raises as :func:`chat_format`."""
    schema = _schema(value)
    if schema is None:
        return {}
    return {"json_schema": schema or {"type": "object"}}


def _schema(value: object) -> Mapping[str, Any] | None:
    """Return a schema, an empty one for any object, ``None`` without a format."""
    if value is None or value == "":
        return None
    if value == "json":
        return {}
    if isinstance(value, Mapping):
        return value
    quoted = quote(msgspec.json.encode(value).decode())
    raise InvalidOption(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
