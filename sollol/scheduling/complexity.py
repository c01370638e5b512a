"""How much a request asks for, in words for people. Nothing is decided by it."""

from enum import StrEnum

import msgspec

from sollol.types import Ask

MODERATE_PROMPT_TOKENS = 500
MODERATE_OUTPUT_TOKENS = 500
HEAVY_PROMPT_TOKENS = 4_000
HEAVY_OUTPUT_TOKENS = 2_000
LONG_CONTEXT_TOKENS = 16_000


class Size(StrEnum):
    """A class of requests, by the tokens of the prompt and those expected of the answer."""

    LIGHT = "light"
    MODERATE = "moderate"
    """From 500 tokens of either."""
    HEAVY = "heavy"
    """From 4,000 tokens of prompt or 2,000 of answer."""
    LONG_CONTEXT = "long-context"
    """From 16,000 tokens of both together, or of context that the body asks for by ``num_ctx``."""


class Complexity(msgspec.Struct, frozen=True):
    """A request's class, and what it needs besides tokens: ``vision``, ``tools``, ``thinking``, ..."""

    size: Size
    needs: tuple[str, ...] = ()


def complexity(ask: Ask, prompt_tokens: int, output_tokens: int) -> Complexity:
    """Return the class of a request.

    Args:
        prompt_tokens: as predicted from the prompt's bytes.
        output_tokens: as expected of the model for such a task.
    """
    needs = set(ask.needs)
    if ask.images:
        needs.add("vision")
    if ask.is_structured:
        needs.add("format")
    return Complexity(_size(ask, prompt_tokens, output_tokens), tuple(sorted(needs)))


def _size(ask: Ask, prompt_tokens: int, output_tokens: int) -> Size:
    if max(prompt_tokens + output_tokens, ask.num_ctx or 0) >= LONG_CONTEXT_TOKENS:
        return Size.LONG_CONTEXT
    if prompt_tokens >= HEAVY_PROMPT_TOKENS or output_tokens >= HEAVY_OUTPUT_TOKENS:
        return Size.HEAVY
    if prompt_tokens >= MODERATE_PROMPT_TOKENS or output_tokens >= MODERATE_OUTPUT_TOKENS:
        return Size.MODERATE
    return Size.LIGHT
