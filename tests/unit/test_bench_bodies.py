"""The HTTP requests that a workload becomes."""

import json
from typing import Any

import pytest

from sollol.bench.live.bodies import Sending, write_all
from sollol.bench.sim.inference import plan_chat
from sollol.bench.sim.prompts import plan_answer
from sollol.bench.sim.text import count_tokens
from sollol.bench.workload import EMBEDDER, MODELS, Request, mixed_contexts, synthetic, text_ask
from sollol.types import Ask, Task

BY_NAME = {model.name: model for model in (*MODELS, EMBEDDER)}
MODEL = MODELS[0]


def chat(prompt: int, output: int, *, known: int = 0, conversation: int = 1) -> Request:
    ask = text_ask(Task.CHAT, prompt, conversation)
    return Request(0.0, MODEL.name, ask, prompt, output, known_tokens=known)


def bodies(*requests: Request) -> list[Any]:
    return [json.loads(sending.body) for sending in write_all(requests, BY_NAME)]


def prompt_text(body: Any) -> str:
    return plan_chat(MODEL, MODEL.name, body, think=None).text


def answer(body: Any) -> str:
    prompt = plan_chat(MODEL, MODEL.name, body, think=None)
    return "".join(plan_answer(MODEL, prompt).pieces)


@pytest.mark.parametrize("prompt", [60, 500, 4000])
def test_a_prompt_has_about_the_tokens_that_it_should(prompt: int) -> None:
    (body,) = bodies(chat(prompt, 20))
    assert count_tokens(prompt_text(body)) == pytest.approx(prompt, abs=4)


def test_the_answer_is_as_long_as_it_should_be_and_no_option_says_so() -> None:
    (body,) = bodies(chat(100, 437))
    assert plan_answer(MODEL, plan_chat(MODEL, MODEL.name, body, think=None)).eval_count == 437
    assert "options" not in body


def test_the_next_turn_begins_with_what_was_said() -> None:
    first, second = bodies(chat(100, 30), chat(200, 30, known=130))
    assert prompt_text(second).startswith(prompt_text(first) + answer(first)[:120])
    assert second["messages"][1] == {"role": "assistant", "content": answer(first)[:120]}
    assert count_tokens(prompt_text(second)) == pytest.approx(200, abs=24)


def test_a_conversation_can_go_back_to_an_earlier_point() -> None:
    _, again = bodies(chat(500, 30), chat(300, 30))
    assert [message["role"] for message in again["messages"]] == ["user"]


def test_requests_of_no_conversation_share_nothing() -> None:
    one, other = bodies(chat(200, 30, conversation=0), chat(200, 30, conversation=0))
    assert len(other["messages"]) == 1
    assert one["messages"] != other["messages"]


def test_embeddings_have_their_inputs() -> None:
    ask = Ask(task=Task.EMBED, inputs=3)
    (sending,) = write_all([Request(1.5, EMBEDDER.name, ask, 300, 0, priority=3)], BY_NAME)
    body = json.loads(sending.body)
    assert (sending.path, sending.at, sending.priority) == ("/api/embed", 1.5, 3)
    assert len(set(body["input"])) == 3
    assert sum(map(count_tokens, body["input"])) == pytest.approx(300, rel=0.1)


def test_options_are_passed_on() -> None:
    made = mixed_contexts(rate_per_s=1.0, requests=50, seed=1)
    wanted = [request.ask.num_ctx for request in made]
    sent = [body.get("options", {}).get("num_ctx") for body in bodies(*made)]
    assert sent == wanted


def test_the_synthetic_mix_goes_to_three_routes() -> None:
    sendings: list[Sending] = write_all(synthetic(rate_per_s=1.0, requests=300, seed=1), BY_NAME)
    assert {sending.path for sending in sendings} == {"/api/chat", "/api/generate", "/api/embed"}
