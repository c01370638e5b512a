"""Ollama's metrics of an answer, from what llama-server measured or from our own clock."""

from dataclasses import dataclass

from sollol.wire.llama_chunks import Timings, Usage
from sollol.wire.ollama import Clock

MOST = 2**62 - 1
"""What fits into an int64, in which clients of Ollama read counts and nanoseconds: 146 years."""


@dataclass(slots=True)
class Stopwatch:
    """When a request began, and when the first token of its answer came; monotonic."""

    clock: Clock
    started_ns: int
    first_token_ns: int | None = None

    def elapsed_ns(self) -> int:
        """Return the time since the request began."""
        return self.clock.monotonic_ns() - self.started_ns

    def note_token(self) -> None:
        """Remember the moment, if it is the first token's."""
        if self.first_token_ns is None:
            self.first_token_ns = self.clock.monotonic_ns()


def text_metrics(
    timings: Timings | None, usage: Usage | None, stopwatch: Stopwatch
) -> dict[str, int]:
    """Return counts and nanoseconds in Ollama's order; what is zero or unknown is left out.

    A cached count of zero stays: it says that the engine counts. What is beyond ``MOST`` is cut to
    that, whatever the engine says. Without ``timings`` prefill ends
    with the first token seen; an answer that came in one piece counts as decode.
    """
    total_ns = stopwatch.elapsed_ns()
    prompt_tokens, cached_tokens = _prompt_counts(timings, usage)
    if timings is not None:
        prefill_ns, decode_ns = _nanoseconds(timings.prompt_ms), _nanoseconds(timings.predicted_ms)
        output_tokens = timings.predicted_n
    else:
        first_ns = stopwatch.first_token_ns
        prefill_ns = 0 if first_ns is None else first_ns - stopwatch.started_ns
        decode_ns = total_ns - prefill_ns
        output_tokens = (usage.completion_tokens or 0) if usage else 0
    metrics = {
        "total_duration": total_ns,
        "prompt_eval_count": prompt_tokens,
        "prompt_eval_cached_count": -1 if cached_tokens is None else cached_tokens,
        "prompt_eval_duration": prefill_ns,
        "eval_count": output_tokens,
        "eval_duration": decode_ns,
    }
    return {
        name: min(value, MOST)
        for name, value in metrics.items()
        if value > 0 or (name == "prompt_eval_cached_count" and value == 0)
    }


def _nanoseconds(milliseconds: float) -> int:
    nanoseconds = milliseconds * 1e6
    return round(nanoseconds) if 0.0 < nanoseconds < MOST else MOST * (nanoseconds > 0.0)


def _prompt_counts(timings: Timings | None, usage: Usage | None) -> tuple[int, int | None]:
    """Return the prompt's tokens, cached ones included, and the cached ones if they are known."""
    if timings is not None and timings.cache_n is not None:
        return timings.prompt_n + timings.cache_n, timings.cache_n
    if usage is not None and usage.prompt_tokens is not None:
        details = usage.prompt_tokens_details
        return usage.prompt_tokens, details.cached_tokens if details else None
    return (timings.prompt_n if timings else 0), None
