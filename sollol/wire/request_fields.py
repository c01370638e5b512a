"""The fields of Ollama's inference requests, checked as Go's decoder checks them.

A wrong type is answered in the words of the node the caller believes to speak to, so a client
behaves the same whichever engine serves it.
"""

from collections.abc import Mapping
from typing import Any

from sollol.errors import InvalidRequest


class InvalidOption(InvalidRequest):
    """A value that Ollama finds wrong only when it runs the request, and answers with 500."""

    status = 500
    code = "invalid_option"


class UnsupportedByEngine(InvalidRequest):
    """llama-server cannot do this; an Ollama node could."""

    code = "unsupported_by_engine"


_COMMON = {"options": "map[string]interface {}", "truncate": "bool"}
_TEXT = _COMMON | {"stream": "bool", "shift": "bool", "logprobs": "bool", "top_logprobs": "int"}
_STRUCTS: dict[str, tuple[str, dict[str, str]]] = {
    "/api/chat": (
        "ChatRequest",
        _TEXT | {"messages": "[]api.Message", "tools": "api.Tools"},
    ),
    "/api/generate": (
        "GenerateRequest",
        _TEXT
        | {
            "prompt": "string",
            "suffix": "string",
            "system": "string",
            "template": "string",
            "context": "[]int",
            "raw": "bool",
            "images": "[]api.ImageData",
        },
    ),
    "/api/embed": ("EmbedRequest", _COMMON | {"dimensions": "int"}),
    "/api/embeddings": ("EmbeddingRequest", {"options": _COMMON["options"], "prompt": "string"}),
}
_MESSAGE = {
    "role": "string",
    "content": "string",
    "thinking": "string",
    "images": "[]api.ImageData",
    "tool_calls": "[]api.ToolCall",
    "tool_name": "string",
    "tool_call_id": "string",
}


def check_request(path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``fields`` without nulls, all known ones of the right type.

    Raises:
        InvalidRequest: the first wrong type, in the words of Go's ``encoding/json``, or a number
            out of its range.
    """
    struct, types = _STRUCTS[path]
    checked = {name: value for name, value in fields.items() if value is not None}
    _check(struct, types, checked)
    if "top_logprobs" in types and not 0 <= checked.get("top_logprobs", 0) <= 20:
        raise InvalidRequest("top_logprobs must be between 0 and 20")
    return checked


def check_message(message: object) -> dict[str, Any]:
    """Return a message with lower-case keys and role, without nulls.

    Raises:
        InvalidRequest: it is no object, or a field has the wrong type.
    """
    if not isinstance(message, Mapping):
        raise InvalidRequest(
            f"json: cannot unmarshal {_kind(message)} into Go value of type api.Alias"
        )
    checked = {str(name).lower(): value for name, value in message.items() if value is not None}
    _check("Alias", _MESSAGE, checked)
    checked["role"] = checked.get("role", "").lower()
    return checked


def wrong_type(value: object, field: str, go_type: str) -> InvalidRequest:
    """Return Go's error for a value that ``field`` (``Struct.name``) cannot hold."""
    kind = _kind(value)
    if go_type == "int" and kind == "number":
        kind = f"number {value}"
    return InvalidRequest(
        f"json: cannot unmarshal {kind} into Go struct field {field} of type {go_type}"
    )


def _check(struct: str, types: Mapping[str, str], fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        go_type = types.get(name)
        if go_type is not None and not _fits(value, go_type):
            raise wrong_type(value, f"{struct}.{name}", go_type)


def _fits(value: object, go_type: str) -> bool:
    if go_type == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if go_type == "string":
        return isinstance(value, str)
    if go_type == "bool":
        return isinstance(value, bool)
    if go_type.startswith("map["):
        return isinstance(value, Mapping)
    return isinstance(value, list)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
