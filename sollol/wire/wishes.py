"""Fields of objects that say how an answer is to be made.

Not beside what reads them, as mypyc would not keep their types: docs/decisions/0008.
"""

import msgspec
from msgspec import Raw

_NULL = Raw(b"null")


class Typed(msgspec.Struct):
    """A format or a wish to think, by its type or its effort."""

    type: str | None = None
    effort: str | None = None


class Formatted(msgspec.Struct):
    """What holds a format."""

    format: Raw = _NULL
