"""What routing needs from a request body, read in a few microseconds and without copying it.

Only the model, ``stream``, ``keep_alive`` and whether there is anything to do are looked at.
All else is the node's to judge: a body that a node would refuse for another field is sent to a
node and refused there (see :mod:`sollol.wire.checks` for when no node has the model).
"""

import re
from typing import NoReturn

import msgspec
from msgspec import Raw

from sollol.errors import InvalidBody
from sollol.types import Dialect
from sollol.wire.goduration import is_zero_keep_alive
from sollol.wire.gojson import Fields, decode, kind_name, top_level
from sollol.wire.gotypes import STRING, decode_error
from sollol.wire.kinds import (
    CHAT,
    EMBED,
    EMBEDDINGS,
    GENERATE,
    SHOW,
    V1_COMPLETIONS,
    BodyKind,
)

_NULL, _TRUE, _FALSE = Raw(b"null"), Raw(b"true"), Raw(b"false")
_open_string = re.compile(rb'"(")?').match
_open_list = re.compile(rb"\[[ \t\r\n]*+(\])?").match
_open_either = re.compile(rb'"(")?|\[[ \t\r\n]*+(\])?').match
_OPENINGS = {
    CHAT: _open_list,
    GENERATE: _open_string,
    EMBED: _open_either,
    EMBEDDINGS: _open_string,
    V1_COMPLETIONS: _open_string,
}
"""How the content field of a kind begins; a group takes part in the match if it is empty."""
_decode_string = msgspec.json.Decoder(str).decode


class Peek(msgspec.Struct):
    """What routing knows of a request body."""

    model: str
    """As the caller wrote it; empty when there is none."""
    stream: bool
    keep_alive_zero: bool
    """The model is to be unloaded when the request is done, or at once if it is load-only."""
    is_load_only: bool
    """Nothing is to be generated: the node only loads (or unloads) the model and answers."""
    fields: Fields
    """All top-level fields, for later readers."""


def peek(kind: BodyKind, body: bytes) -> Peek:
    """Return what routing needs from a request body.

    Args:
        kind: the route's kind of body.
        body: the whole body, decompressed.

    Raises:
        InvalidBody: not JSON, or a field that is looked at has the wrong type; the text is that
            of a real Ollama.
    """
    fields = top_level(body, kind.go_type, kind.empty_message)
    raws = fields.raws
    model = _string(kind, fields, "model")
    if kind is SHOW and not model:
        model = _string(kind, fields, "name")
    return Peek(
        model,
        _stream(kind, fields) if "stream" in raws else kind.streams_by_default,
        "keep_alive" in raws and _is_keep_alive_zero(kind, fields),
        kind.content_field is not None and _is_load_only(kind, fields, kind.content_field),
        fields,
    )


def _string(kind: BodyKind, fields: Fields, name: str) -> str:
    raw = fields.raws.get(name)
    if raw is None:
        return ""
    try:
        return _decode_string(raw)
    except ValueError:  # null, broken Unicode or another type
        pass
    text = fields.last_set(name)
    value = "" if text is None else decode(text)
    if not isinstance(value, str):
        _refuse(kind, fields)
    return value


def _stream(kind: BodyKind, fields: Fields) -> bool:
    raw = fields.raws["stream"]
    if "stream" not in kind.struct:
        return kind.streams_by_default
    if raw == _TRUE:
        return True
    if raw == _FALSE:
        return False
    if raw != _NULL:
        _refuse(kind, fields)
    if kind.dialect == Dialect.OLLAMA:
        return kind.streams_by_default  # a pointer in Go: null unsets it
    return fields.last_set("stream") == _TRUE


def _is_keep_alive_zero(kind: BodyKind, fields: Fields) -> bool:
    if "keep_alive" not in kind.struct:
        return False
    try:
        return is_zero_keep_alive(fields.raws["keep_alive"])
    except InvalidBody:
        _refuse(kind, fields)


def _is_load_only(kind: BodyKind, fields: Fields, name: str) -> bool:
    raw = fields.raws.get(name)
    if raw is None:
        return True
    match = _OPENINGS[kind](raw)
    if match is not None:
        return match.lastindex is not None
    if raw != _NULL:
        if kind_name(raw) not in kind.struct[name].accepts:
            _refuse(kind, fields)
        return False
    if kind.struct[name] is STRING:  # null leaves it as an earlier duplicate set it
        return fields.last_set(name) in (None, Raw(b'""'))
    return True


def _refuse(kind: BodyKind, fields: Fields) -> NoReturn:
    """Raise what Go says of the fields; it may name another one than the one that led here."""
    message = decode_error(kind.struct_name, kind.struct, fields.pairs())
    raise InvalidBody(message or "invalid request body")
