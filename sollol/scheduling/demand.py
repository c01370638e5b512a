"""How often each model is asked for, and for how much."""

from math import exp

import msgspec

from sollol.scheduling.state import Options
from sollol.structs import Leaf

WINDOW_S = 120.0
"""What is older counts for less than a third."""

SHARE = 0.1
"""Of the latest request in the average size."""

MAX_SHAPES = 64
"""Choices of runner options that are counted apart for a model; a caller can make up any number."""

OTHERS: Options = (("", 0),)
"""Stands for all choices beyond that; nobody asks for it."""


class _Arrivals(Leaf):
    """Requests of one kind up to ``at``, the latest one; newer ones count more."""

    count: float
    at: float

    def rate(self, now: float) -> float:
        """Return them for each second."""
        return self.count * exp((self.at - now) / WINDOW_S) / WINDOW_S


class _Asked(msgspec.Struct):
    """What is known of a model: its requests by their runner options, and their average size."""

    prompt_tokens: float
    output_tokens: float
    shapes: dict[Options, _Arrivals]


class Demand:
    """Requests per second for each model and choice of runner options, newer ones counting more."""

    def __init__(self) -> None:
        self._models: dict[str, _Asked] = {}

    def note(
        self, model: str, options: Options, prompt_tokens: int, output_tokens: int, now: float
    ) -> None:
        """Count a request, and take how large it is."""
        asked = self._models.get(model)
        if asked is None:
            asked = self._models[model] = _Asked(prompt_tokens, output_tokens, {})
        asked.prompt_tokens += SHARE * (prompt_tokens - asked.prompt_tokens)
        asked.output_tokens += SHARE * (output_tokens - asked.output_tokens)
        arrivals = asked.shapes.get(options)
        if arrivals is None and len(asked.shapes) >= MAX_SHAPES:
            options = OTHERS
            arrivals = asked.shapes.get(options)
        if arrivals is None:
            asked.shapes[options] = _Arrivals(1.0, now)
            return
        arrivals.count = arrivals.count * exp((arrivals.at - now) / WINDOW_S) + 1.0
        arrivals.at = now

    def size(self, model: str) -> tuple[float, float]:
        """Return the tokens of the prompt and of the output that a request has on average."""
        asked = self._models.get(model)
        return (0.0, 0.0) if asked is None else (asked.prompt_tokens, asked.output_tokens)

    def models(self) -> tuple[str, ...]:
        """Return the models that somebody has asked for lately."""
        return tuple(self._models)

    def forget(self, model: str) -> None:
        """Drop what is known of a model."""
        self._models.pop(model, None)

    def rate(self, model: str, now: float) -> float:
        """Return the requests per second for a model."""
        asked = self._models.get(model)
        if asked is None:
            return 0.0
        return sum(arrivals.rate(now) for arrivals in asked.shapes.values())

    def shape_rate(self, model: str, options: Options, now: float) -> float:
        """Return the requests per second for a model with some runner options."""
        asked = self._models.get(model)
        arrivals = None if asked is None else asked.shapes.get(options)
        return 0.0 if arrivals is None else arrivals.rate(now)

    def forget_idle(self, now: float) -> None:
        """Drop what nobody has asked for in a long time."""
        for model, asked in list(self._models.items()):
            for options, arrivals in list(asked.shapes.items()):
                if now - arrivals.at > 10 * WINDOW_S:
                    del asked.shapes[options]
            if not asked.shapes:
                del self._models[model]
