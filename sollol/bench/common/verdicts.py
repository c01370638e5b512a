"""Limits held against what was measured, and the words and tables that say so. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sollol.bench.common.numbers import Spread

MIB = 1024 * 1024

Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit. ``measured`` is the median over the rounds, with its range."""

    text: str
    limit: str
    measured: str
    holds: bool


def factor(spread: Spread) -> str:
    """Write a ratio with its range: ``0.31x (0.29 to 0.33)``."""
    return f"{spread.median:.2f}x ({spread.low:.2f} to {spread.high:.2f})"


def milliseconds(spread: Spread) -> str:
    """Write seconds as milliseconds with their range."""
    low, high = spread.low * 1e3, spread.high * 1e3
    return f"{spread.median * 1e3:.2f} ms ({low:.2f} to {high:.2f})"


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
