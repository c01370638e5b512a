"""The classes of requests that people are shown."""

import pytest

from sollol.scheduling.complexity import Complexity, Size, complexity
from sollol.types import Ask


@pytest.mark.parametrize(
    ("prompt_tokens", "output_tokens", "size"),
    [
        (0, 0, Size.LIGHT),
        (499, 499, Size.LIGHT),
        (500, 0, Size.MODERATE),
        (0, 500, Size.MODERATE),
        (3999, 1999, Size.MODERATE),
        (4000, 0, Size.HEAVY),
        (0, 2000, Size.HEAVY),
        (8000, 7999, Size.HEAVY),
        (8000, 8000, Size.LONG_CONTEXT),
    ],
)
def test_tokens_make_the_class(prompt_tokens: int, output_tokens: int, size: Size) -> None:
    assert complexity(Ask(), prompt_tokens, output_tokens) == Complexity(size)


def test_a_large_context_that_is_asked_for_makes_the_class() -> None:
    assert complexity(Ask(options=(("num_ctx", 16_000),)), 1, 1).size is Size.LONG_CONTEXT
    assert complexity(Ask(options=(("num_ctx", 8_192),)), 1, 1).size is Size.LIGHT


def test_needs_are_listed_in_order() -> None:
    ask = Ask(needs=frozenset({"tools", "thinking"}), images=1, is_structured=True)
    assert complexity(ask, 1, 1).needs == ("format", "thinking", "tools", "vision")
