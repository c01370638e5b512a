"""The texts and bodies of simulated nodes, which are pure functions."""

import json

import pytest
from hypothesis import given, strategies as st

from sollol.bench.sim.bodies import ApiError, read_keep_alive
from sollol.bench.sim.config import SimModel, guess_model
from sollol.bench.sim.memory import PrefixCache
from sollol.bench.sim.names import full_name, short_name
from sollol.bench.sim.prompts import Prompt, plan_answer
from sollol.bench.sim.text import (
    answer_pieces,
    fill_schema,
    json_pieces,
    seed_of,
    split_raw_prompt,
)

pytestmark = pytest.mark.sim

DIGEST = SimModel("m").digest


@given(prompt=st.text(), limit=st.integers(0, 200), place=st.floats(0, 1))
def test_an_answer_cut_anywhere_goes_on_as_if_it_had_not_been(
    prompt: str, limit: int, place: float
) -> None:
    seed = seed_of(DIGEST, prompt)
    whole = "".join(answer_pieces(seed, "", limit) or ())
    partial = whole[: int(len(whole) * place)]
    rest = "".join(answer_pieces(seed, partial, 0) or ())
    if limit:
        longer = "".join(answer_pieces(seed, "", 400) or ())
        assert longer.startswith(partial + rest)
    else:
        assert partial + rest == whole


@given(prompt=st.text(), cut=st.integers(8, 60))
def test_the_answer_in_a_raw_prompt_is_found(prompt: str, cut: int) -> None:
    before, partial = split_raw_prompt(DIGEST, prompt)
    whole = "".join(answer_pieces(seed_of(DIGEST, before), "", 40) or ())
    answered = before + whole[:cut]
    assert split_raw_prompt(DIGEST, answered) == (before, whole[:cut])
    assert before + partial == prompt


def test_what_somebody_else_began_is_part_of_the_prompt() -> None:
    answer = plan_answer(
        SimModel("m"), Prompt("question", partial="Somebody else's words", limit=5)
    )
    assert len(answer.pieces) == 5
    assert answer != plan_answer(SimModel("m"), Prompt("question", limit=5))


@given(st.integers(1, 40))
def test_thoughts_count_as_tokens(limit: int) -> None:
    answer = plan_answer(SimModel("m"), Prompt("question", limit=limit, thinks=True))
    assert answer.eval_count == limit


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["x", "y"]},
        "sizes": {"type": "array", "items": {"type": ["number", "null"]}},
        "inner": {"properties": {"nothing": {"type": "null"}}},
    },
}


def test_a_schema_is_filled_and_its_text_continued() -> None:
    value = fill_schema(SCHEMA, b"\x07" * 16)
    assert value == {"name": "y", "sizes": [3.5], "inner": {"nothing": None}}
    text = "".join(json_pieces(value, ""))
    assert json.loads(text) == value
    assert text[:9] + "".join(json_pieces(value, text[:9])) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (30, 30.0),
        (0, 0.0),
        ("0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (-1, float("inf")),
        ("-1s", float("inf")),
    ],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    assert read_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_keep_alive_that_is_none(value: object, message: str) -> None:
    with pytest.raises(ApiError, match="^" + message.replace("[", r"\[")):
        read_keep_alive(value)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("x", "registry.ollama.ai/library/x:latest"),
        ("me/x:7b", "registry.ollama.ai/me/x:7b"),
        ("host:5000/me/x", "host:5000/me/x:latest"),
        ("a b", None),
        ("x/../y", None),
        ("a/b/c/d", None),
        ("x:", None),
        ("", None),
    ],
)
def test_names(name: str, full: str | None) -> None:
    assert full_name(name) == full


def test_short_names() -> None:
    assert short_name("registry.ollama.ai/library/x:latest") == "x:latest"
    assert short_name("registry.ollama.ai/me/x:7b") == "me/x:7b"
    assert short_name("host:5000/me/x:7b") == "host:5000/me/x:7b"


def test_models_are_guessed_from_their_names() -> None:
    assert guess_model("nomic-embed-text").only_embeds
    thinker = guess_model("qwen3:8b")
    assert "thinking" in thinker.capabilities
    assert 4 < thinker.size_gib < 6
    assert guess_model("gemma3:270m").size_gib < 0.3


def test_a_prefix_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = PrefixCache(capacity_tokens=64)
    first, second, third = ("a" * 128, "b" * 128, "c" * 128)
    assert [cache.remember(text) for text in (first, second, first)] == [0, 0, 32]
    cache.remember(third)
    assert cache.remember(third + "more") == 32
    assert cache.remember(second) == 0


@given(st.text(min_size=1), st.text())
def test_a_prefix_cache_knows_no_more_than_the_shared_start(start: str, end: str) -> None:
    cache = PrefixCache(capacity_tokens=100_000)
    cache.remember(start)
    known = cache.remember(start + end)
    assert known <= len(start + end) // 4
