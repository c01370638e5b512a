"""What a model says itself in requests for an engine that does not know it."""

import json
from typing import Any

import pytest

from sollol.types import ModelDefaults
from sollol.wire.defaults import v1_fields
from sollol.wire.kinds import BODY_KINDS
from sollol.wire.peek import peek
from tests.translating import translated

SYSTEM = {"role": "system", "content": "Be brief."}
EXAMPLES = ({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"})
DEFAULTS = ModelDefaults("Be brief.", EXAMPLES, {"temperature": 0.5, "stop": ["<end>"]})
USER = {"role": "user", "content": "hi"}
OWN = {"role": "system", "content": "Be kind."}
CHAT, GENERATE = "/api/chat", "/api/generate"
V1_CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


def sent(path: str, defaults: ModelDefaults = DEFAULTS, **fields: Any) -> dict[str, Any]:
    """Return what a llama-server is sent for a request in Ollama's dialect."""
    body: dict[str, Any] = json.loads(translated(path, fields, defaults=defaults).body)
    return body


def said(path: str, defaults: ModelDefaults = DEFAULTS, **fields: Any) -> dict[str, Any]:
    """Return the fields that a body of ``/v1`` gets."""
    kind = BODY_KINDS[path]
    seen = peek(kind, json.dumps({"model": "m"} | fields).encode())
    return {n: json.loads(text) for n, text in v1_fields(kind, seen.fields, defaults).items()}


# -- Ollama's dialect ------------------------------------------------------------------------------


def test_a_chat_begins_with_what_the_model_says() -> None:
    assert sent(CHAT, messages=[USER])["messages"] == [SYSTEM, *EXAMPLES, USER]
    assert sent(CHAT, ModelDefaults(), messages=[USER])["messages"] == [USER]
    assert sent(CHAT, ModelDefaults("Be brief."), messages=[USER])["messages"] == [SYSTEM, USER]


def test_a_system_prompt_of_the_request_replaces_the_models_and_stays_in_front() -> None:
    asked = sent(CHAT, messages=[{"ROLE": "System", "content": "Be kind."}, OWN, USER])
    assert asked["messages"] == [OWN, OWN, *EXAMPLES, USER]
    later = sent(CHAT, messages=[USER, OWN])
    assert later["messages"] == [SYSTEM, *EXAMPLES, USER, OWN]


def test_a_prompt_has_the_models_system_prompt_and_examples() -> None:
    assert sent(GENERATE, prompt="hi")["messages"] == [SYSTEM, *EXAMPLES, USER]
    assert sent(GENERATE, prompt="hi", system="")["messages"] == [SYSTEM, *EXAMPLES, USER]
    own = sent(GENERATE, prompt="hi", system="Be kind.")
    assert own["messages"] == [OWN, *EXAMPLES, USER]


@pytest.mark.parametrize("fields", [{"raw": True}, {"suffix": "x"}])
def test_what_no_template_is_for_has_options_only(fields: dict[str, Any]) -> None:
    asked = sent(GENERATE, prompt="hi", **fields)
    assert "Be brief." not in json.dumps(asked)
    assert (asked["temperature"], asked["stop"]) == (0.5, ["<end>"])


def test_options_of_the_request_replace_the_models_one_by_one() -> None:
    for path, fields in ((CHAT, {"messages": [USER]}), (GENERATE, {"prompt": "hi"})):
        plain = sent(path, **fields)
        assert (plain["temperature"], plain["stop"], plain["top_k"]) == (0.5, ["<end>"], 40)
        asked = sent(path, options={"temperature": None, "stop": ["a"], "top_k": 2}, **fields)
        assert (asked["temperature"], asked["stop"], asked["top_k"]) == (0.5, ["a"], 2)
        assert "stop" not in sent(path, options={"stop": []}, **fields)


# -- /v1 -------------------------------------------------------------------------------------------


def test_a_chat_completion() -> None:
    assert said(V1_CHAT, messages=[USER]) == {
        "messages": [SYSTEM, *EXAMPLES, USER],
        "stop": ["<end>"],
    }
    for role in ("system", "developer"):
        own = {"role": role, "content": "Be kind."}
        asked = said(V1_CHAT, messages=[own, USER], stop="x")
        assert asked == {"messages": [own, *EXAMPLES, USER]}
    assert said(V1_CHAT, ModelDefaults("Be brief."), messages=[OWN, USER]) == {}


@pytest.mark.parametrize("messages", [[], None, "x", {"role": "user"}])
def test_what_is_no_conversation_stays_as_it_is(messages: object) -> None:
    assert "messages" not in said(V1_CHAT, messages=messages)


@pytest.mark.parametrize("message", [3, {}, {"role": 3}])
def test_who_says_a_message_need_not_be_told(message: object) -> None:
    assert said(V1_CHAT, messages=[message])["messages"] == [SYSTEM, *EXAMPLES, message]


def test_a_completion_has_the_end_only() -> None:
    assert said(COMPLETIONS, prompt="hi", stop=None) == {"stop": ["<end>"]}
    assert said(COMPLETIONS, prompt="hi", stop=[]) == {}


@pytest.mark.parametrize("system", [{}, {"system": None}, {"system": ""}, {"system": []}])
def test_messages_of_anthropic(system: dict[str, Any]) -> None:
    defaults = ModelDefaults("Be brief.", (OWN, *EXAMPLES), DEFAULTS.options)
    assert said(MESSAGES, defaults, messages=[USER], **system) == {
        "messages": [*EXAMPLES, USER],
        "system": "Be brief.",
        "stop_sequences": ["<end>"],
    }
    own = {"system": [{"type": "text", "text": "x"}], "stop_sequences": ["y"]}
    assert said(MESSAGES, defaults, messages=[USER], **own) == {"messages": [*EXAMPLES, USER]}


def test_responses() -> None:
    text = {"type": "output_text", "text": "4", "annotations": []}
    answer = {"type": "message", "role": "assistant", "status": "completed", "content": [text]}
    examples = [{"type": "message", **EXAMPLES[0]}, answer]
    question = {"type": "message", **USER}
    assert said(RESPONSES, input="hi") == {
        "input": [*examples, question],
        "instructions": "Be brief.",
        "stop": ["<end>"],
    }
    assert said(RESPONSES, input=[question], instructions="x", stop="x") == {
        "input": [*examples, question]
    }
    assert said(RESPONSES, input=[OWN, USER])["input"] == [OWN, *examples, USER]
    assert said(RESPONSES, ModelDefaults("Be brief."), input=[OWN, USER]) == {}
    assert said(RESPONSES, ModelDefaults("Be brief."), input="hi") == {"instructions": "Be brief."}
    assert "input" not in said(RESPONSES)


def test_other_routes_stay_as_they_are() -> None:
    assert said("/v1/embeddings", input="hi") == {}
