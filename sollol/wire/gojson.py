"""The top level of a JSON body as Go's encoding/json sees it, read in one pass without copies.

Go's rules that differ from Python's: keys are compared without case, the last duplicate wins,
bytes after the first value are ignored, ``null`` is an empty object, broken Unicode is replaced.
A gateway that read a body by other rules would route it by another model than the node runs.

msgspec does the work for every body it accepts; the others go to :mod:`sollol.wire.goscan`.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from sollol.errors import InvalidBody
from sollol.wire.goscan import scan
from sollol.wire.gotext import fold, repair

MAX_FIELDS = 10_000
"""Top-level fields we are ready to look at; the largest known request has about thirty."""

_SHORT_BODY_BYTES = 1 << 16
"""A body that cannot have many more than ``MAX_FIELDS`` fields."""

_NULL = Raw(b"null")
_KIND_NAMES = {
    ord("{"): "object", ord("["): "array", ord('"'): "string",
    ord("t"): "bool", ord("f"): "bool", ord("n"): "null",
}  # fmt: skip

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_any = msgspec.json.Decoder(Any).decode

Value = TypeVar("Value")


class Fields(msgspec.Struct):
    """The top-level fields of a body: their JSON texts by folded (lower-case) name.

    ``raws`` holds of a repeated key the last value. The texts are views of ``body``.
    """

    body: bytes
    raws: dict[str, Raw]

    def value(self, name: str) -> Any:
        """Return a field as Python values; None when it is absent or ``null``.

        Raises:
            InvalidBody: it is nested too deeply, or has a number no float can hold.
        """
        raw = self.raws.get(name)
        return None if raw is None else decode(raw)

    def last_set(self, name: str) -> Raw | None:
        """Return the last value of a field that is not ``null``, or None.

        Go leaves a plain (not pointer) field alone when it meets ``null``, so of
        ``{"model": "a", "model": null}`` the model is ``a``.
        """
        raw = self.raws.get(name)
        if raw != _NULL:
            return raw
        texts = [raw for key, raw in self.pairs() if key == name and raw != _NULL]
        return texts[-1] if texts else None

    def pairs(self) -> list[tuple[str, Raw]]:
        """Return all fields in textual order, repeated ones included, by folded name.

        It reads the body again: for error texts and rare cases, not for every request.
        """
        return _ordered_pairs(self.body) or []


def top_level(body: bytes, go_type: str, empty_message: str) -> Fields:
    """Return the fields of the first JSON value of a body.

    Args:
        body: the request's body.
        go_type: the Go type it is decoded into, for error texts: ``api.ChatRequest``.
        empty_message: the error text for a body without any value.

    Raises:
        InvalidBody: not a JSON object; the text is that of Go's decoder.
    """
    if len(body) > _SHORT_BODY_BYTES:
        return _exact(body, go_type, empty_message)
    try:
        raws = _decode_fields(body)
    except (ValueError, RecursionError):  # broken, or only unusual
        return _exact(body, go_type, empty_message)
    keys = "".join(raws)
    if keys.islower() and keys.isascii():
        return Fields(body, raws)
    folded = {fold(key): raw for key, raw in raws.items()}
    if len(folded) == len(raws):
        return Fields(body, folded)
    return _exact(body, go_type, empty_message)  # whether "model" or "MODEL" came last matters


def decode(raw: Raw) -> Any:
    """Return a JSON text as Python values, with broken Unicode replaced as Go replaces it.

    Raises:
        InvalidBody: it is nested too deeply, or has a number no float can hold.
    """
    return decode_as(raw, _decode_any)


def elements(raw: Raw) -> list[Raw]:
    """Return the elements of an array as JSON texts.

    Raises:
        InvalidBody: it is nested too deeply.
    """
    return decode_as(raw, _decode_list)


def members(raw: Raw) -> list[tuple[str, Raw]]:
    """Return the members of an object in textual order, repeated ones included, by folded name."""
    return _ordered_pairs(bytes(raw)) or []


def kind_name(raw: Raw | bytes) -> str:
    """Return what Go calls the kind of a JSON text in error texts: ``number``, ``bool``, ..."""
    return _KIND_NAMES.get(memoryview(raw)[0], "number")


def decode_as(raw: Raw, decoder: Callable[[Raw | bytes | str], Value]) -> Value:
    """Return a JSON text as ``decoder`` gives it, with broken Unicode replaced as Go replaces it.

    Raises:
        InvalidBody: the decoder does not take it.
    """
    try:
        return decoder(raw)
    except (ValueError, RecursionError):
        return decode_repaired(raw, decoder)


def decode_repaired(raw: Raw | bytes, decoder: Callable[[Raw | bytes | str], Value]) -> Value:
    """Return a JSON text that a decoder did not take as it gives it once broken Unicode is replaced.

    Raises:
        InvalidBody: it does not take that either.
    """
    try:
        return decoder(repair(bytes(raw)))
    except RecursionError as error:
        raise InvalidBody("exceeded max depth") from error
    except ValueError as error:
        raise InvalidBody("a number is out of range") from error


def _exact(body: bytes, go_type: str, empty_message: str) -> Fields:
    pairs = _ordered_pairs(body)
    if pairs is not None:
        return Fields(body, dict(pairs))
    start, end, _ = scan(body)
    if start == end:
        raise InvalidBody(empty_message)
    kind = kind_name(body[start:end])
    raise InvalidBody(f"json: cannot unmarshal {kind} into Go value of type {go_type}")


def _ordered_pairs(body: bytes) -> list[tuple[str, Raw]] | None:
    """Return the members of a body's object in textual order, or None when it is no object."""
    for attempt in (bytes, repair):
        try:
            return _quick_pairs(attempt(body))
        except (ValueError, RecursionError):  # msgspec lets the hook's InvalidBody through
            continue
    return _scanned_pairs(body)


class _Key:
    """A key that equals no other, so that a dict keeps every duplicate."""

    __slots__ = ("folded",)

    def __init__(self, folded: str) -> None:
        self.folded = folded


_Pairs = dict[_Key, Raw] | None
_decode_pairs = msgspec.json.Decoder(_Pairs, dec_hook=lambda _, key: _Key(fold(key))).decode


def _quick_pairs(body: bytes | str) -> list[tuple[str, Raw]]:
    """Return the members of a body that msgspec accepts; a hook call for each, none for values."""
    is_short = len(body) <= _SHORT_BODY_BYTES
    found = _decode_pairs(body) if is_short else _decode_bounded(body)
    return [(key.folded, raw) for key, raw in (found or {}).items()]


def _decode_bounded(body: bytes | str) -> _Pairs:
    fields_left = MAX_FIELDS

    def make_key(_: type, key: str) -> _Key:
        nonlocal fields_left
        fields_left -= 1
        if fields_left < 0:
            raise InvalidBody("request body has too many fields")
        return _Key(fold(key))

    found: _Pairs = msgspec.json.decode(body, type=_Pairs, dec_hook=make_key)
    return found


def _scanned_pairs(body: bytes) -> list[tuple[str, Raw]] | None:
    start, _, members = scan(body)
    if not body.startswith((b"{", b"null"), start):
        return None
    if len(members) > MAX_FIELDS:
        raise InvalidBody("request body has too many fields")
    view = memoryview(body)
    return [(fold(decode(Raw(key))), Raw(view[at:stop])) for key, at, stop in members]
