"""An exact JSON scanner: Go's grammar, Go's error texts, and where each top-level member lies.

It is the careful way of :mod:`sollol.wire.gojson`, taken only for bodies that msgspec refuses:
broken ones, those with bytes after the value, and those nested deeper than Python's stack. It
needs about a microsecond for each token, so it gives up on a body with more than ``MAX_TOKENS``.

Source: Go's encoding/json, scanner.go.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from sollol.errors import InvalidBody
from sollol.wire.gotext import quote_byte

MAX_DEPTH = 10_000
"""Containers inside containers that Go's decoder accepts."""

MAX_TOKENS = 250_000
"""Values and containers we are ready to step over one by one."""


_SPACE = rb"[ \t\r\n]*+"
_STRING_START = (  # an atomic group: `(?:...)*+` gives wrong ends on Python 3.11.0 to 3.11.3
    rb'"[^"\\\x00-\x1f]*+(?>(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*)'
)
_STRING = _STRING_START + rb'"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++|(?!\.))(?:[eE][+-]?[0-9]++|(?![eE]))"
_NUMBER_START = (
    rb"-?(?:(?:0|[1-9][0-9]*+)(?:\.(?:[0-9]++(?:[eE][+-]?[0-9]*+)?)?|[eE][+-]?[0-9]*+)?)?"
)

_Match = Callable[[bytes, int], re.Match[bytes] | None]
_space: _Match = re.compile(_SPACE).match
_key: _Match = re.compile(rb"(" + _STRING + rb")" + _SPACE).match
_scalar: _Match = re.compile(_STRING + rb"|true|false|null|" + _NUMBER).match
_string_start: _Match = re.compile(_STRING_START).match
_number_start: _Match = re.compile(_NUMBER_START).match
_hex_digits: _Match = re.compile(rb"[0-9a-fA-F]{0,4}").match

_END_OF_ARRAY, _END_OF_OBJECT = ord("]"), ord("}")
_CLOSERS = {ord("["): _END_OF_ARRAY, ord("{"): _END_OF_OBJECT}
_AFTER_VALUE = {
    _END_OF_ARRAY: "after array element",
    _END_OF_OBJECT: "after object key:value pair",
}
_LITERALS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}


def scan(body: bytes) -> tuple[int, int, list[tuple[bytes, int, int]]]:
    """Return where the first JSON value lies, and the members if it is an object.

    Returns:
        Its start and end (both ``len(body)`` when there is no value), and for each member, in
        textual order and with repeated keys, its key as JSON text and its value's start and end.

    Raises:
        InvalidBody: the value is not JSON, in the words of Go's decoder, or has too many tokens.
    """
    scanner = _Scanner(body)
    start = scanner.after_space(0)
    if start == len(body):
        return start, start, []
    return start, scanner.value_end(start), scanner.members


class _Scanner:
    """One walk over one body. Every ``at`` is a position at which white space has been skipped."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.members: list[tuple[bytes, int, int]] = []
        self._closers = bytearray()  # what ends each container we are inside of
        self._keys: list[tuple[bytes, int]] = []  # the top-level key whose value we are in
        self._tokens_left = MAX_TOKENS

    def value_end(self, at: int) -> int:
        """Return the end of the value at ``at``."""
        while True:
            self._count()
            match = _scalar(self.body, at)
            if match is None:
                at, is_empty = self._enter(at)
                if not is_empty:
                    continue
            else:
                at = match.end()
            at = self._leave(at)
            if not self._closers:
                return at
            at = self._next_value(at)

    def after_space(self, at: int) -> int:
        match = _space(self.body, at)
        assert match is not None  # it matches the empty text
        return match.end()

    def _count(self) -> None:
        self._tokens_left -= 1
        if self._tokens_left < 0:
            raise InvalidBody("request body is too complex")

    def _enter(self, at: int) -> tuple[int, bool]:
        """Open the container at ``at``.

        Returns:
            Where its first value begins and False, or where an empty one ends and True.
        """
        closer = _CLOSERS.get(self._byte(at))
        if closer is None:
            _fail_scalar(self.body, at)
        if len(self._closers) >= MAX_DEPTH:
            self._fail(at, "exceeded max depth")
        inside = self.after_space(at + 1)
        if self._byte(inside) == closer:
            return inside + 1, True
        self._closers.append(closer)
        return (inside if closer == _END_OF_ARRAY else self._after_key(inside)), False

    def _leave(self, at: int) -> int:
        """Close every container that ends after the value that ended at ``at``."""
        while self._closers:
            if len(self._closers) == 1 and self._keys:
                key, start = self._keys.pop()
                self.members.append((key, start, at))
            after = self.after_space(at)
            if self._byte(after) != self._closers[-1]:
                return after
            self._closers.pop()
            at = after + 1
        return at

    def _next_value(self, at: int) -> int:
        """Return where the value after the comma at ``at`` begins."""
        closer = self._closers[-1]
        if self._byte(at) != ord(","):
            self._fail(at, _AFTER_VALUE[closer])
        at = self.after_space(at + 1)
        return at if closer == _END_OF_ARRAY else self._after_key(at)

    def _after_key(self, at: int) -> int:
        """Return where the value begins whose key is at ``at``."""
        match = _key(self.body, at)
        if match is None:
            if self._byte(at) == ord('"'):
                _fail_string(self.body, at)
            self._fail(at, "looking for beginning of object key string")
        if self._byte(match.end()) != ord(":"):
            self._fail(match.end(), "after object key")
        start = self.after_space(match.end() + 1)
        if len(self._closers) == 1:
            self._keys.append((match[1], start))
        return start

    def _byte(self, at: int) -> int:
        return self.body[at] if at < len(self.body) else -1

    def _fail(self, at: int, context: str) -> NoReturn:
        _fail(self.body, at, context)


def _fail(body: bytes, at: int, context: str) -> NoReturn:
    if at >= len(body):
        raise InvalidBody("unexpected EOF")
    raise InvalidBody(f"invalid character {quote_byte(body[at])} {context}")


def _fail_scalar(body: bytes, at: int) -> NoReturn:
    """Raise what Go says of the broken string, number or literal at ``at``."""
    first = body[at : at + 1]
    if first == b'"':
        _fail_string(body, at)
    if first and first in b"-0123456789":
        _fail_number(body, at)
    word = _LITERALS.get(body[at]) if first else None
    if word is None:
        _fail(body, at, "looking for beginning of value")
    length = next(n for n in range(1, len(word)) if not body.startswith(word[: n + 1], at))
    _fail(body, at + length, f"in literal {word.decode()} (expecting '{chr(word[length])}')")


def _fail_number(body: bytes, at: int) -> NoReturn:
    match = _number_start(body, at)
    assert match is not None  # it matches the empty text
    if match.group() == b"-":
        _fail(body, match.end(), "in numeric literal")
    if match.group().endswith(b"."):
        _fail(body, match.end(), "after decimal point in numeric literal")
    _fail(body, match.end(), "in exponent of numeric literal")


def _fail_string(body: bytes, at: int) -> NoReturn:
    start = _string_start(body, at)
    assert start is not None  # there is a quotation mark at ``at``
    wrong = start.end()
    if body[wrong : wrong + 1] != b"\\":
        _fail(body, wrong, "in string literal")
    if body[wrong + 1 : wrong + 2] != b"u":
        _fail(body, wrong + 1, "in string escape code")
    digits = _hex_digits(body, wrong + 2)
    assert digits is not None  # it matches the empty text
    _fail(body, digits.end(), "in \\u hexadecimal character escape")
