"""A running average that forgets, of positive quantities whose noise is a factor."""

from math import exp, log

SLOWEST = 0.15
"""Share of a new value once many were seen: half of what is known is from the last four."""

SURPRISE = log(1.5)
"""A value off by more than this factor counts half at once: a node that changed shows soon."""


LEAST, MOST = 1e-9, 86_400.0
"""Seconds for a token, a load or an answer that are believed: more than a day is an error."""


class Average:
    """The geometric mean of values, newer ones counting more; ``mean`` is 0 before the first."""

    __slots__ = ("best", "count", "log_mean", "log_variance", "mean", "seen_at")

    def __init__(self) -> None:
        self.mean = 0.0
        self.best = 0.0
        """The lowest mean there has been; it creeps up to the present one."""
        self.count = 0
        self.log_mean = 0.0
        self.log_variance = 0.0
        self.seen_at = 0.0

    def add(self, value: float, now: float) -> None:
        """Take a value; those that no machine can have are ignored."""
        if not LEAST < value < MOST:
            return
        difference = log(value) - self.log_mean
        share = max(1.0 / (self.count + 1), SLOWEST)
        if self.count >= 3 and abs(difference) > SURPRISE:
            share = max(share, 0.5)
        self.log_mean += share * difference
        if self.count:
            self.log_variance += share * (difference * difference - self.log_variance)
        self.count += 1
        self.seen_at = now
        self.mean = exp(self.log_mean)
        self.best = min(self.mean, self.best * 1.02) if self.best else self.mean

    def as_list(self) -> list[float]:
        """Return what is worth keeping between runs."""
        return [self.log_mean, self.log_variance, float(min(self.count, 8))]

    @classmethod
    def from_list(cls, kept: list[float]) -> "Average":
        """Return what :meth:`as_list` gave.

        Raises:
            ValueError: it is something else.
        """
        log_mean, log_variance, count = map(float, kept)
        average = cls()
        if not (log(LEAST) < log_mean < log(MOST) and 0 <= log_variance < 3600 and 1 <= count <= 8):
            raise ValueError("not an average")
        average.log_mean, average.log_variance, average.count = log_mean, log_variance, int(count)
        average.mean = average.best = exp(log_mean)
        return average
