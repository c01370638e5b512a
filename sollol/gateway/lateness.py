"""When an answer is late enough to ask a second node, and how often that may be done.

Pure: times are arguments. Source: Dean and Barroso, "The Tail at Scale", hedged requests.
"""

from collections import deque
from math import ceil

WINDOW = 64
"""Answers of a model that count, the latest ones."""

LEAST = 20
"""With fewer nothing is known: the slowest of a handful is no twentieth."""

LATE_SHARE = 0.95
"""An answer is late that takes longer than so many of them did."""

FORGET_S = 600.0
"""A model that nobody asked for so long is begun with anew: what its answers took has changed."""

MAX_MODELS = 256

SHARE = 0.02
"""Copies for each request."""

BURST = 5.0
"""Copies that may be sent at once, when few were before."""


class Lateness:
    """Owner of how long the latest answers took, for each model by its key."""

    def __init__(self) -> None:
        self._took: dict[str, tuple[float, deque[float]]] = {}
        """When the model was last answered, and seconds; the one answered last is the last."""

    def note(self, model: str, seconds: float, now: float) -> None:
        """Take how long an answer took to begin."""
        self._forget(now)
        _, took = self._took.pop(model, (now, deque[float](maxlen=WINDOW)))
        took.append(seconds)
        self._took[model] = now, took
        if len(self._took) > MAX_MODELS:
            del self._took[next(iter(self._took))]

    def late_s(self, model: str, now: float) -> float | None:
        """Return after how long an answer is late; None while too little is known."""
        self._forget(now)
        _, took = self._took.get(model, (now, ()))
        if len(took) < LEAST:
            return None
        return sorted(took)[ceil(LATE_SHARE * len(took)) - 1]

    def _forget(self, now: float) -> None:
        while self._took:
            model, (at, _) = next(iter(self._took.items()))
            if now - at < FORGET_S:
                return
            del self._took[model]


class CopyBudget:
    """Owner of how many copies may be sent: of any n requests in a row at most ``SHARE`` n + ``BURST``."""

    def __init__(self) -> None:
        self._left = BURST

    def count(self) -> None:
        """Count a request that could be sent twice."""
        self._left = min(BURST, self._left + SHARE)

    @property
    def has_one(self) -> bool:
        """Whether a copy may be sent."""
        return self._left >= 1.0

    def take(self) -> None:
        """Take what a copy costs; only if :attr:`has_one`."""
        self._left -= 1.0
