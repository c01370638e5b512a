"""Reading what was kept between runs, without trust: a file may be damaged or of another make."""

from math import isfinite

MAX_ROWS = 50_000
"""Rows read of one list."""

MAX_TEXT = 512
"""Longest name of a node or a model."""

REFUSED = (ValueError, TypeError, IndexError, OverflowError)
"""What reading a row that does not fit raises."""


def part(kept: object, name: str) -> object:
    """Return a member of what was kept; None where there is none."""
    return kept.get(name) if isinstance(kept, dict) else None


def rows(kept: object, name: str) -> list[list[object]]:
    """Return the rows of a list; what is no row is an empty one, which nothing can be read from."""
    listed = part(kept, name)
    if not isinstance(listed, list):
        return [] if listed is None else [[]]
    return [row if isinstance(row, list) else [] for row in listed[:MAX_ROWS]]


def number(value: object, least: float, most: float) -> float:
    """Return a number within bounds.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not isfinite(value) or not least <= value <= most:
        raise ValueError("out of bounds")
    return float(value)


def text(value: object) -> str:
    """Return a name.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError("not a name")
    return value
