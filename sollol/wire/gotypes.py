"""What Go says when a JSON field does not fit the type of its struct field.

Go's decoder remembers the first field that does not fit, goes on, and reports it at the end; but
a type that decodes itself (``api.Duration``, ``api.Message``) ends the decoding at once. So which
error is reported depends on the order of all fields, and :func:`decode_error` looks at all of
them. What is wrong inside a tool, or inside a message of ``/v1``, is left to the node.

Source: Go's encoding/json, decode.go; Ollama, api/types.go.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Raw

from sollol.errors import InvalidBody
from sollol.wire.gobase64 import base64_error_at
from sollol.wire.goduration import is_zero_keep_alive
from sollol.wire.gojson import decode, elements, kind_name, members
from sollol.wire.gotext import quote

_INT64 = range(-(2**63), 2**63)
_LONGEST_INT = len(str(_INT64[0]))
_THINK_LEVELS = ("high", "medium", "low", "max")
_THINK_CHOICES = '"high", "medium", "low", "max", true, or false'


@dataclass(frozen=True, slots=True)
class GoType:
    """The type of a struct's field, as far as its errors go."""

    name: str
    """As Go prints it: ``[]api.Message``."""
    accepts: frozenset[str]
    """The kinds of JSON value that fit; ``null`` always does."""
    element: "GoType | None" = None
    """For a list, the type of its elements if they are looked at."""
    fields: "Struct | None" = None
    """For a struct, its fields if they are looked at."""
    unmarshal: Callable[[Raw], None] | None = None
    """The type's own decoding; raises InvalidBody."""
    is_final: bool = False
    """What is wrong inside ends the decoding at once."""
    integers: range | None = None
    """For an integer, the values that fit."""
    is_base64: bool = False
    """A string is the base64 form of bytes."""


Struct = Mapping[str, GoType]
"""The fields of a struct by JSON name."""


def decode_error(struct_name: str, struct: Struct, fields: Iterable[tuple[str, Raw]]) -> str | None:
    """Return what Go's decoder says of a body's fields, or None when they all fit.

    Args:
        struct_name: the Go struct without its package: ``ChatRequest``.
        struct: its fields.
        fields: the body's fields in textual order, repeated ones included.
    """
    try:
        return _first_mismatch(struct_name, struct, fields)
    except InvalidBody as error:
        return str(error)


def _first_mismatch(path: str, struct: Struct, fields: Iterable[tuple[str, Raw]]) -> str | None:
    """Return the first field that does not fit; a later one may raise InvalidBody all the same."""
    first: str | None = None
    for name, raw in fields:
        go_type = struct.get(name)
        if go_type is not None:
            error = _mismatch(f"{path}.{name}", go_type, raw)
            first = first or error
    return first


def _mismatch(path: str, go_type: GoType, raw: Raw) -> str | None:
    kind = kind_name(raw)
    if kind == "null":
        return None
    if go_type.unmarshal is not None:
        go_type.unmarshal(raw)
        return None
    error = _kind_error(path, go_type, raw, kind) or _inner_error(path, go_type, raw, kind)
    if error and go_type.is_final:
        raise InvalidBody(error)
    return error


def _kind_error(path: str, go_type: GoType, raw: Raw, kind: str) -> str | None:
    if kind not in go_type.accepts:
        return _cannot(kind, path, go_type)
    if go_type.integers is not None and not _is_int(raw, go_type.integers):
        return _cannot(f"number {bytes(raw).decode()}", path, go_type)
    if go_type.is_base64 and kind == "string":
        return _base64_error(decode(raw))
    return None


def _inner_error(path: str, go_type: GoType, raw: Raw, kind: str) -> str | None:
    if go_type.fields is not None:
        return _first_mismatch(path, go_type.fields, members(raw))
    element = go_type.element
    if element is None or kind != "array":
        return None
    errors = [_mismatch(path, element, item) for item in elements(raw)]
    return next(filter(None, errors), None)


def _cannot(value: str, path: str, go_type: GoType) -> str:
    return f"json: cannot unmarshal {value} into Go struct field {path} of type {go_type.name}"


def _is_int(raw: Raw, integers: range) -> bool:
    text = bytes(raw)
    if len(text) > _LONGEST_INT or not text.lstrip(b"-").isdigit():
        return False
    return int(text) in integers


def _base64_error(text: str) -> str | None:
    at = base64_error_at(text.encode())
    return None if at is None else f"illegal base64 data at input byte {at}"


def _unmarshal_keep_alive(raw: Raw) -> None:
    is_zero_keep_alive(raw)


def _unmarshal_arguments(raw: Raw) -> None:
    if kind_name(raw) != "object":
        raise InvalidBody("Value looks like object, but can't find closing '}' symbol")


def _unmarshal_think(raw: Raw) -> None:
    kind = kind_name(raw)
    if kind == "bool":
        return
    if kind != "string":
        raise InvalidBody(f"think must be a boolean or string ({_THINK_CHOICES})")
    level = decode(raw)
    if level not in _THINK_LEVELS:
        raise InvalidBody(f"invalid think value: {quote(level)} (must be {_THINK_CHOICES})")


_ANY_KIND = frozenset({"array", "bool", "number", "object", "string"})


def _list(name: str, element: GoType | None = None) -> GoType:
    return GoType(name, frozenset({"array"}), element=element)


def _struct(name: str, fields: Struct | None = None, *, is_final: bool = False) -> GoType:
    return GoType(name, frozenset({"object"}), fields=fields, is_final=is_final)


STRING = GoType("string", frozenset({"string"}))
BOOL = GoType("bool", frozenset({"bool"}))
INT = GoType("int", frozenset({"number"}), integers=_INT64)
UINT8 = GoType("uint8", frozenset({"number"}), integers=range(256))
FLOAT64 = GoType("float64", frozenset({"number"}))
FLOAT32 = GoType("float32", frozenset({"number"}))
ANY = GoType("interface {}", _ANY_KIND)
RAW = GoType("json.RawMessage", _ANY_KIND)
MAP = _struct("map[string]interface {}")
KEEP_ALIVE = GoType("api.Duration", _ANY_KIND, unmarshal=_unmarshal_keep_alive)
THINK = GoType("api.ThinkValue", _ANY_KIND, unmarshal=_unmarshal_think)
IMAGE = GoType("api.ImageData", frozenset({"string", "array"}), element=UINT8, is_base64=True)
IMAGES = _list("[]api.ImageData", IMAGE)
INTS = _list("[]int", INT)
ARGUMENTS = GoType("api.ToolCallFunctionArguments", _ANY_KIND, unmarshal=_unmarshal_arguments)
FUNCTION = _struct("api.ToolCallFunction", {"index": INT, "name": STRING, "arguments": ARGUMENTS})
TOOL_CALL = _struct("api.ToolCall", {"id": STRING, "function": FUNCTION})
MESSAGE = _struct(
    "api.Alias",  # a second name of api.Message, to decode it without its own decoding
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": IMAGES,
        "tool_calls": _list("[]api.ToolCall", TOOL_CALL),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
    is_final=True,
)
MESSAGES = _list("[]api.Message", MESSAGE)
TOOLS = _list("api.Tools", _struct("api.Tool"))
V1_MESSAGES = _list("[]openai.Message")
V1_TOOLS = _list("[]api.Tool")
STRINGS = _list("[]string", STRING)
ANTHROPIC_MESSAGES = _list("[]anthropic.MessageParam")
STREAM_OPTIONS = _struct("openai.StreamOptions")
RESPONSE_FORMAT = _struct("openai.ResponseFormat")
REASONING = _struct("openai.Reasoning")
