"""Fields of the turns of a conversation: those that its size, its media and its opening are read from.

Not beside what reads them, as mypyc would not keep their types: docs/decisions/0008.
"""

import msgspec
from msgspec import Raw

_NONE = Raw()


class Part(msgspec.Struct):
    """A part of a message: text, an image, a call of a tool or its result."""

    type: str | None = None
    text: str | None = None
    content: "str | list[Part] | None" = None
    input: Raw = _NONE
    image_url: Raw = _NONE
    source: Raw = _NONE


class Turn(msgspec.Struct):
    """A message, or an item of the input of ``/v1/responses``."""

    role: str | None = None
    content: str | list[Part] | None = None
    images: list[Raw] | None = None
    thinking: str | None = None
    tool_calls: Raw = _NONE
    arguments: str | None = None
    output: str | list[Part] | None = None
