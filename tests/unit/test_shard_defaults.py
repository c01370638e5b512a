"""What a model of the store says for requests, whatever somebody has written there."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sollol.errors import InvalidOption
from sollol.sharding.defaults import context_of, examples_of, model_defaults, options_of
from sollol.sharding.ollama_store import find_model
from sollol.types import NO_DEFAULTS, ModelDefaults
from sollol.wire.messages import openai_messages
from sollol.wire.sampling import sampling_fields
from tests.shards import Store

USER = {"role": "user", "content": "2+2?"}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab\0", max_size=3)
NAMES = st.sampled_from(["temperature", "top_k", "seed", "stop", "num_predict", "num_ctx", "x"])


def test_the_store_tells_what_a_model_says(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    file = tmp_path / "w"
    file.write_bytes(b"w")
    store.add("plain", file)
    store.add(
        "full",
        file,
        system="Be brief.",
        messages=json.dumps([USER]),
        params='{"stop": "a", "temperature": 0.5, "num_ctx": 99}',
    )
    assert model_defaults(find_model("plain", [store.root])) == NO_DEFAULTS
    full = find_model("full", [store.root])
    options = {"temperature": 0.5, "stop": ["a"]}
    assert model_defaults(full) == ModelDefaults("Be brief.", (USER,), options)
    assert context_of(full.parameters) == 99


@pytest.mark.parametrize(
    "messages",
    [
        *(None, "", "{", "[" * 10_000, "{}", "3", "[]", "[3, null, []]"),
        '[{"role": "tool", "content": "x"}, {"role": ["user"], "content": "x"}]',
        '[{"role": "user"}, {"role": "user", "content": ""}, {"role": "user", "content": ["x"]}]',
    ],
)
def test_what_is_no_message_of_text_is_left_out(messages: str | None) -> None:
    assert examples_of(messages) == ()


def test_messages_have_a_role_and_a_text() -> None:
    told = {**USER, "images": ["x"], "tool_calls": 3}
    assert examples_of(json.dumps([told, {"role": "user"}, USER])) == (USER, USER)
    assert openai_messages(examples_of(json.dumps([told]))) == [USER]


@pytest.mark.parametrize("parameters", [None, "", "{", "[]", '{"num_ctx": true}', '{"num_ctx": 0}'])
def test_a_context_that_is_none(parameters: str | None) -> None:
    assert context_of(parameters) is None
    assert options_of(parameters) == {}


@given(st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=3)))
def test_options_can_always_be_sent(told: dict[str, Any]) -> None:
    options = options_of(json.dumps(told))
    assert set(options) <= set(told) - {"num_ctx", "x"}
    try:
        sampling_fields(options, length_field="max_tokens")
    except InvalidOption:
        pytest.fail("a model's own option is refused")
