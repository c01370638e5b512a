"""Takes from an answer that has ended all that it tells of node, model and caller."""

from sollol.scheduling.average import MOST
from sollol.scheduling.lengths import Lengths
from sollol.scheduling.rates import RateBook
from sollol.scheduling.state import Held, Runner
from sollol.types import Measured, Task

WORTH_TOKENS = 16
"""Fewer tokens take so little that what is measured is everything else."""

MOST_TOKENS = 10_000_000
"""More than this in one answer is an error of the node's."""

RELOAD_S = 0.5
"""A load of a model that was thought to be loaded: it had left, or was loaded otherwise."""


class Learner:
    """Feeds the books of speeds and lengths."""

    def __init__(self, rates: RateBook, lengths: Lengths) -> None:
        self._rates = rates
        self._lengths = lengths

    def learn(self, held: Held, measured: Measured, now: float) -> None:
        """Learn from an answer that was whole."""
        runner, request = held.runner, held.request
        if runner is None or measured.total_s is None or not _is_plausible(measured):
            return
        prompt_tokens = measured.prompt_tokens or held.prompt_tokens
        if request.ask.conversation:
            _learn_cached(held, runner, measured, prompt_tokens)
            if runner.is_resident:
                tokens = prompt_tokens + (measured.output_tokens or measured.pieces)
                runner.conversations.remember(request.ask.conversation, tokens)
        if held.loads or runner.rates.take_turn(now):
            self._learn_speeds(held, runner, measured, prompt_tokens, now)

    def _learn_speeds(
        self, held: Held, runner: Runner, measured: Measured, prompt_tokens: int, now: float
    ) -> None:
        request, prompt_s = held.request, _prompt_s(held, measured)
        self._lengths.learn(request.model, request.ask, request.caller, measured)
        if measured.load_s is not None and (held.loads or measured.load_s > RELOAD_S):
            self._rates.learn_load(runner, measured.load_s, now)
        fresh = _fresh_tokens(held, measured, prompt_tokens)
        if prompt_s is not None and fresh >= WORTH_TOKENS:
            is_exact = measured.cached_tokens is not None
            self._rates.learn_prefill(runner, fresh, prompt_s, now, is_exact=is_exact)
        self._learn_output(held, runner, measured, now)

    def _learn_output(self, held: Held, runner: Runner, measured: Measured, now: float) -> None:
        tokens = measured.output_tokens or measured.pieces
        seconds = measured.output_s
        if seconds is None and measured.first_byte_s is not None and measured.pieces > 1:
            seconds = (measured.total_s or 0.0) - measured.first_byte_s
        if seconds is None or tokens < WORTH_TOKENS or seconds <= 0.0:
            return
        node = runner.node
        concurrency = (node.area(now) - held.busy_area) / max(now - held.granted_at, 1e-9)
        self._rates.learn_decode(runner, seconds / tokens, concurrency, now)


def _learn_cached(held: Held, runner: Runner, measured: Measured, prompt_tokens: int) -> None:
    """Compare what was to be cached of a conversation with what was."""
    conversation, cached = held.request.ask.conversation, measured.cached_tokens
    if cached is not None:
        runner.conversations.verify(conversation, prompt_tokens - cached, prompt_tokens)
        return
    prompt_s = _prompt_s(held, measured) if held.cached_tokens else None
    if prompt_s is not None:
        evaluated = min(float(prompt_tokens), prompt_s / max(runner.prefill_s, 1e-9))
        runner.conversations.verify(conversation, evaluated, prompt_tokens)


def _fresh_tokens(held: Held, measured: Measured, prompt_tokens: int) -> int:
    """Return how much of a prompt was evaluated; 0 where it is not known how much was cached."""
    cached = measured.cached_tokens
    if cached is None:
        return 0 if held.cached_tokens else prompt_tokens
    return prompt_tokens - cached


def _prompt_s(held: Held, measured: Measured) -> float | None:
    """Return the seconds that the prompt took; None where they cannot be told from others."""
    seconds = measured.prompt_s
    if seconds is None:
        seconds = _other_prompt_s(held, measured)
    return None if seconds is None or seconds <= 0.0 else seconds


def _other_prompt_s(held: Held, measured: Measured) -> float | None:
    """Return what a node that does not tell it took for the prompt, as far as that can be known."""
    if held.request.ask.task is Task.EMBED:  # its time is all for the prompt
        if measured.node_total_s is not None and measured.load_s is not None:
            return measured.node_total_s - measured.load_s
        return None if held.loads else measured.total_s
    if measured.pieces > 1 and not held.loads:
        return measured.first_byte_s
    return None


def _is_plausible(measured: Measured) -> bool:
    """Whether a node's numbers can be true; what cannot would be believed for long."""
    return (
        0 <= (measured.prompt_tokens or 0) <= MOST_TOKENS
        and 0 <= (measured.cached_tokens or 0) <= MOST_TOKENS
        and 0 <= (measured.output_tokens or 0) <= MOST_TOKENS
        and 0.0 <= (measured.load_s or 0.0) <= MOST
        and 0.0 <= (measured.prompt_s or 0.0) <= MOST
        and 0.0 <= (measured.output_s or 0.0) <= MOST
        and 0.0 <= (measured.node_total_s or 0.0) <= MOST
    )
