"""A body with some of its top-level fields taken out or replaced, all others as they came.

Names are compared as Go compares them, without case, and every occurrence of a name counts. Values
that stay are byte for byte those of the body, in their order; only the space between fields and
what follows the object are lost, which mean nothing.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
from msgspec import Raw

from sollol.wire.gojson import Fields, decode
from sollol.wire.goscan import scan
from sollol.wire.gotext import fold

Member = tuple[bytes, bytes | Raw | memoryview]
"""A name as JSON text, and a value."""

_encode = msgspec.json.encode
_NO_CHANGES: Mapping[str, bytes] = {}


class _Name:
    """A key that equals no other, so that a dict keeps every duplicate."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_decode_members = msgspec.json.Decoder(
    dict[_Name, Raw] | None, dec_hook=lambda _, key: _Name(key)
).decode


def edited(
    fields: Fields,
    *,
    remove: Collection[str] = (),
    replace: Mapping[str, bytes] = _NO_CHANGES,
) -> bytes:
    """Return a body with fields taken out and replaced.

    Args:
        fields: the body's.
        remove: names in lower case.
        replace: JSON texts by name in lower case. Of a repeated field the last is replaced and the
            others are taken out; a field that the body lacks is added at its end.
    """
    members = [(fold(decode(Raw(name))), name, value) for name, value in _members(fields.body)]
    last = {folded: place for place, (folded, _, _) in enumerate(members)}
    kept: list[Member] = []
    for place, (folded, name, value) in enumerate(members):
        if folded not in replace:
            if folded not in remove:
                kept.append((name, value))
        elif last[folded] == place:
            kept.append((name, replace[folded]))
    kept += [(_encode(name), value) for name, value in replace.items() if name not in last]
    return _object(kept)


def with_options(
    options: Raw | bytes, names: Collection[str], values: Iterable[tuple[str, object]]
) -> bytes:
    """Return the object ``options`` without some of them, and with others of these values.

    Names of options are compared with their case, as Ollama does it. What is no object has none.
    """
    kept = [member for member in _members(bytes(options)) if decode(Raw(member[0])) not in names]
    return _object(kept + [(_encode(name), _encode(value)) for name, value in values])


def _members(body: bytes) -> list[Member]:
    """Return the members of a JSON object in textual order, repeated ones included."""
    try:
        found = _decode_members(body)
    except (ValueError, RecursionError):  # broken Unicode, bytes after the value, deep nesting
        view = memoryview(body)
        return [(name, view[start:end]) for name, start, end in scan(body)[2]]
    return [(_encode(key.text), raw) for key, raw in (found or {}).items()]


def _object(members: Collection[Member]) -> bytes:
    return b"{" + b",".join([b"".join((name, b":", value)) for name, value in members]) + b"}"
