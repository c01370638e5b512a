"""How a text is cut to so many tokens."""

from hypothesis import given, strategies as st

from sollol.gateway.truncation import LETTERS, longest_start


async def cut(text: str, most_tokens: int, per_token: int) -> str:
    async def count(part: str) -> int:
        return -(-len(part) // per_token)

    return await longest_start(text, most_tokens, count)


@given(st.text(max_size=300), st.integers(1, 40), st.integers(1, 3 * LETTERS))
async def test_it_is_the_longest_beginning_that_fits(text: str, most: int, per_token: int) -> None:
    start = await cut(text, most, per_token)
    assert text.startswith(start)
    assert -(-len(start) // per_token) == min(most, -(-len(text) // per_token))
    assert (len(start) == len(text)) or -(-len(text) // per_token) > most


async def test_tokens_may_be_long() -> None:
    assert len(await cut("a" * 1000, 4, 24)) == 4 * 24
    assert len(await cut("a" * 60, 4, 24)) == 60


async def test_a_letter_may_have_more_tokens_than_fit() -> None:
    async def count(part: str) -> int:
        return 3 * len(part)

    assert await longest_start("abc", 2, count) == ""
    assert await longest_start("abc", 7, count) == "ab"
