"""How urgent a request is, by its headers and its body.

``X-Sollol-Priority`` counts before the body's field ``priority``. A header is for SOLLOL alone, so
a wrong one is refused. A field may be meant for the node, which judges it, or ignores it as Ollama
does: only an integer from 1 to 10 is taken for ours, and no node sees it.
"""

import re
from collections.abc import Mapping

from msgspec import Raw

from sollol.errors import InvalidRequest
from sollol.types import HIGHEST_PRIORITY, LOWEST_PRIORITY
from sollol.wire.gojson import Fields
from sollol.wire.gotext import quote

PRIORITY = "priority"
"""The body's field."""

_PRIORITIES = {b"%d" % level: level for level in range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)}
_is_seconds = re.compile(rb"[0-9]{1,9}(\.[0-9]{0,40})?").fullmatch


def priority_of(
    headers: Mapping[bytes, bytes], field: int | None, *, default: int, maximum: int
) -> int:
    """Return a request's priority, from 1 to ``maximum``; larger is more urgent.

    Args:
        headers: the request's, names in lower case.
        field: the body's own, see :func:`body_priority`.
        default: of a request that names none.
        maximum: what a larger one is lowered to.

    Raises:
        InvalidRequest: the header is no integer from 1 to 10.
    """
    given = headers.get(b"x-sollol-priority")
    if given is None:
        return min(default if field is None else field, maximum)
    level = _PRIORITIES.get(given.strip())
    if level is None:
        raise InvalidRequest(
            f"X-Sollol-Priority must be an integer from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}, larger is more "
            f"urgent; got {_shown(given)}"
        )
    return min(level, maximum)


def body_priority(fields: Fields) -> int | None:
    """Return the priority that a body names; None when it names none that is ours."""
    raw: Raw | None = fields.raws.get(PRIORITY)
    return None if raw is None else _PRIORITIES.get(bytes(raw))


def deadline_s_of(headers: Mapping[bytes, bytes]) -> float | None:
    """Return how many seconds after its arrival a request is of no use any more; None if never.

    Raises:
        InvalidRequest: the header is no number of seconds above 0.
    """
    given = headers.get(b"x-sollol-deadline")
    if given is None:
        return None
    text = given.strip()
    seconds = float(text) if _is_seconds(text) else 0.0
    if seconds <= 0:
        raise InvalidRequest(
            "X-Sollol-Deadline must be a number of seconds above 0, counted from now, such as 30 "
            f"or 2.5; got {_shown(given)}"
        )
    return seconds


def _shown(value: bytes) -> str:
    return quote(value[:100].decode("latin-1"))
