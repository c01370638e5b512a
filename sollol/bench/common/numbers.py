"""Percentiles and medians of measured values. Pure."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def percentile(values: Iterable[float], ratio: float) -> float:
    """Return the smallest value that at least ``ratio`` of all values do not exceed.

    Args:
        values: in any order.
        ratio: 0 to 1; 0.99 is the 99th percentile.

    Raises:
        ValueError: there are no values, or ``ratio`` is out of range.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio {ratio} is not between 0 and 1")
    return ordered[max(0, math.ceil(ratio * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Spread:
    """One quantity over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarize the rounds.

        Raises:
            ValueError: there are none.
        """
        if not values:
            raise ValueError("no values")
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> "Spread":
        """Summarize ``above / below`` round by round: what slowed a whole round cancels out."""
        return cls.of([value / base for value, base in zip(above, below, strict=True)])

    @classmethod
    def of_differences(cls, values: Sequence[float], bases: Sequence[float]) -> "Spread":
        """Summarize ``value - base`` round by round."""
        return cls.of([value - base for value, base in zip(values, bases, strict=True)])
