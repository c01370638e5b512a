"""How often each model is asked for, and for how much."""

from math import exp
from typing import Any

from sollol.scheduling.state import Options, Shape

WINDOW_S = 120.0
"""What is older counts for less than a third."""

SHARE = 0.1
"""Of the latest request in the average size."""


class Demand:
    """Requests per second for each model and choice of runner options, newer ones counting more."""

    def __init__(self) -> None:
        self._counts: dict[Shape, tuple[float, float]] = {}
        self._models: dict[str, tuple[float, float]] = {}
        self._sizes: dict[str, tuple[float, float]] = {}

    def note(self, model: str, options: Options, now: float) -> None:
        """Count a request."""
        _count(self._models, model, now)
        _count(self._counts, (model, options), now)

    def note_size(self, model: str, prompt_tokens: int, output_tokens: int) -> None:
        """Take how large a request is; newer ones count more."""
        prompt, output = self._sizes.get(model, (prompt_tokens, output_tokens))
        prompt += SHARE * (prompt_tokens - prompt)
        self._sizes[model] = (prompt, output + SHARE * (output_tokens - output))

    def size(self, model: str) -> tuple[float, float]:
        """Return the tokens of the prompt and of the output that a request has on average."""
        return self._sizes.get(model, (0.0, 0.0))

    def models(self) -> tuple[str, ...]:
        """Return the models that somebody has asked for lately."""
        return tuple(self._models)

    def forget(self, model: str) -> None:
        """Drop what is known of a model."""
        self._models.pop(model, None)
        self._sizes.pop(model, None)
        for shape in [shape for shape in self._counts if shape[0] == model]:
            del self._counts[shape]

    def rate(self, model: str, now: float) -> float:
        """Return the requests per second for a model."""
        return _rate(self._models.get(model), now)

    def shape_rate(self, model: str, options: Options, now: float) -> float:
        """Return the requests per second for a model with some runner options."""
        return _rate(self._counts.get((model, options)), now)

    def forget_idle(self, now: float) -> None:
        """Drop what nobody has asked for in a long time."""
        _forget_idle(self._models, now)
        _forget_idle(self._counts, now)
        self._sizes = {name: size for name, size in self._sizes.items() if name in self._models}


def _count(known: dict[Any, tuple[float, float]], key: Any, now: float) -> None:
    before = known.get(key)
    if before is None:
        known[key] = (1.0, now)
        return
    count, at = before
    known[key] = (count * exp((at - now) / WINDOW_S) + 1.0, now)


def _rate(known: tuple[float, float] | None, now: float) -> float:
    if known is None:
        return 0.0
    count, at = known
    return count * exp((at - now) / WINDOW_S) / WINDOW_S


def _forget_idle(known: dict[Any, tuple[float, float]], now: float) -> None:
    for key in [key for key, (_, at) in known.items() if now - at > 10 * WINDOW_S]:
        del known[key]
