"""How often each model is asked for, and for how much."""

from math import exp

import msgspec

WINDOW_S = 120.0
"""What is older counts for less than a third."""

_SHARE = 0.1


class Asked(msgspec.Struct):
    """What is asked of a model, newer requests counting more."""

    count: float = 0.0
    at: float = 0.0
    prompt_tokens: float = 0.0
    """Of a request, on average."""
    output_tokens: float = 0.0
    with_options: float = 0.0
    """The share of the requests that set runner options, such as ``num_ctx``."""


NOTHING = Asked()


class Demand:
    """Requests per second for each model, newer ones counting more."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}

    def note(
        self,
        model: str,
        now: float,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
        has_options: bool = False,
    ) -> None:
        """Count a request."""
        asked = self._asked.get(model)
        if asked is None:
            self._asked[model] = Asked(1.0, now, prompt_tokens, output_tokens, has_options)
            return
        asked.count = asked.count * exp((asked.at - now) / WINDOW_S) + 1.0
        asked.at = now
        asked.prompt_tokens += _SHARE * (prompt_tokens - asked.prompt_tokens)
        asked.output_tokens += _SHARE * (output_tokens - asked.output_tokens)
        asked.with_options += _SHARE * (has_options - asked.with_options)

    def rate(self, model: str, now: float) -> float:
        """Return the requests per second."""
        asked = self._asked.get(model)
        if asked is None:
            return 0.0
        return asked.count * exp((asked.at - now) / WINDOW_S) / WINDOW_S

    def asked(self, model: str) -> Asked:
        """Return what a request for a model is like."""
        return self._asked.get(model, NOTHING)

    def models(self) -> tuple[str, ...]:
        """Return the models that somebody has asked for lately."""
        return tuple(self._asked)

    def chance(self, model: str, within_s: float, now: float) -> float:
        """Return the probability of a request within some seconds, were they to come at random."""
        return 1.0 - exp(-self.rate(model, now) * within_s)

    def forget(self, model: str) -> None:
        """Drop what is known of a model."""
        self._asked.pop(model, None)

    def forget_idle(self, now: float) -> None:
        """Drop models that nobody has asked for in a long time."""
        idle = [model for model, asked in self._asked.items() if now - asked.at > 10 * WINDOW_S]
        for model in idle:
            del self._asked[model]
