"""How often each model is asked for."""

from math import exp

WINDOW_S = 120.0
"""What is older counts for less than a third."""


class Demand:
    """Requests per second for each model, newer ones counting more."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}

    def note(self, model: str, now: float) -> None:
        """Count a request."""
        count, at = self._counts.get(model, (0.0, now))
        self._counts[model] = (count * exp((at - now) / WINDOW_S) + 1.0, now)

    def rate(self, model: str, now: float) -> float:
        """Return the requests per second."""
        known = self._counts.get(model)
        if known is None:
            return 0.0
        count, at = known
        return count * exp((at - now) / WINDOW_S) / WINDOW_S

    def chance(self, model: str, within_s: float, now: float) -> float:
        """Return the probability of a request within some seconds, were they to come at random."""
        return 1.0 - exp(-self.rate(model, now) * within_s)

    def forget_idle(self, now: float) -> None:
        """Drop models that nobody has asked for in a long time."""
        idle = [model for model, (_, at) in self._counts.items() if now - at > 10 * WINDOW_S]
        for model in idle:
            del self._counts[model]
