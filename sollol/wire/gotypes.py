"""What Go says when a JSON field does not fit the type of its struct field.

Go's decoder remembers the first field that does not fit, goes on, and reports it at the end; but
a type that decodes itself (``api.Duration``, ``api.ThinkValue``) ends the decoding at once. So
which error is reported depends on the order of all fields, and :func:`decode_error` looks at
all of them. Only the top level and the elements of lists of plain values are looked at: what is
wrong inside a message or a tool is left to the node.

Source: Go's encoding/json, decode.go; Ollama, api/types.go.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Raw

from sollol.wire.gobase64 import base64_error_at
from sollol.wire.goduration import is_zero_keep_alive
from sollol.wire.gojson import decode, elements, kind_name
from sollol.wire.goscan import InvalidBody
from sollol.wire.gotext import quote

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
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
    unmarshal: Callable[[Raw], None] | None = None
    """The type's own decoding; raises InvalidBody."""
    is_int: bool = False
    is_base64: bool = False


Struct = Mapping[str, GoType]
"""The fields of a request's struct by JSON name."""


def decode_error(struct_name: str, struct: Struct, fields: Iterable[tuple[str, Raw]]) -> str | None:
    """Return what Go's decoder says of a body's fields, or None when they all fit.

    Args:
        struct_name: the Go struct without its package: ``ChatRequest``.
        struct: its fields.
        fields: the body's fields in textual order, repeated ones included.
    """
    first: str | None = None
    for name, raw in fields:
        go_type = struct.get(name)
        kind = kind_name(raw)
        if go_type is None or kind == "null":
            continue
        if go_type.unmarshal is None:
            first = first or _mismatch(f"{struct_name}.{name}", go_type, raw, kind)
            continue
        try:
            go_type.unmarshal(raw)
        except InvalidBody as error:
            return str(error)
    return first


def _mismatch(field: str, go_type: GoType, raw: Raw, kind: str) -> str | None:
    if kind not in go_type.accepts:
        return _cannot(kind, field, go_type)
    if go_type.is_int and kind == "number" and not _is_int(raw):
        return _cannot(f"number {bytes(raw).decode()}", field, go_type)
    if go_type.is_base64 and kind == "string":
        return _base64_error(decode(raw))
    if go_type.element is None or kind != "array":
        return None
    element = go_type.element
    items = ((item, kind_name(item)) for item in elements(raw))
    errors = (_mismatch(field, element, item, kind) for item, kind in items if kind != "null")
    return next((error for error in errors if error), None)


def _cannot(value: str, field: str, go_type: GoType) -> str:
    return f"json: cannot unmarshal {value} into Go struct field {field} of type {go_type.name}"


def _is_int(raw: Raw) -> bool:
    text = bytes(raw)
    if len(text) > len(str(_INT_MIN)) or not text.lstrip(b"-").isdigit():
        return False
    return _INT_MIN <= int(text) <= _INT_MAX


def _base64_error(text: str) -> str | None:
    at = base64_error_at(text.encode())
    return None if at is None else f"illegal base64 data at input byte {at}"


def _unmarshal_keep_alive(raw: Raw) -> None:
    is_zero_keep_alive(raw)


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


def _struct(name: str) -> GoType:
    return GoType(name, frozenset({"object"}))


STRING = GoType("string", frozenset({"string"}))
BOOL = GoType("bool", frozenset({"bool"}))
INT = GoType("int", frozenset({"number"}), is_int=True)
FLOAT64 = GoType("float64", frozenset({"number"}))
FLOAT32 = GoType("float32", frozenset({"number"}))
ANY = GoType("interface {}", _ANY_KIND)
MAP = _struct("map[string]interface {}")
KEEP_ALIVE = GoType("api.Duration", _ANY_KIND, unmarshal=_unmarshal_keep_alive)
THINK = GoType("api.ThinkValue", _ANY_KIND, unmarshal=_unmarshal_think)
IMAGE = GoType("api.ImageData", frozenset({"string", "array"}), is_base64=True)
IMAGES = _list("[]api.ImageData", IMAGE)
INTS = _list("[]int", INT)
MESSAGES = _list("[]api.Message")
TOOLS = _list("api.Tools")
V1_MESSAGES = _list("[]openai.Message")
V1_TOOLS = _list("[]api.Tool")
STREAM_OPTIONS = _struct("openai.StreamOptions")
RESPONSE_FORMAT = _struct("openai.ResponseFormat")
REASONING = _struct("openai.Reasoning")
