"""``format`` and ``think`` as llama-server's fields."""

from collections.abc import Mapping
from typing import Any

import msgspec

from sollol.errors import InvalidOption
from sollol.wire.gotext import quote


def chat_thinking(think: bool | str | None) -> dict[str, Any]:
    """Return the fields that switch thinking; a model that cannot think ignores them.

    Templates know three levels at most, so ``max`` is their highest.
    """
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
