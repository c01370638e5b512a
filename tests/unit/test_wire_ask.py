"""What is read of a body for the scheduler, and what makes two bodies one conversation."""

import json
from typing import Any

import pytest

from sollol.types import Ask, Task
from sollol.wire import kinds
from sollol.wire.ask import ask_of
from sollol.wire.kinds import BodyKind
from sollol.wire.peek import peek

IMAGE = "iVBORw0KGgo" + "A" * 5000
TOOL = {"type": "function", "function": {"name": "weather", "description": "the weather"}}
SYSTEM = {"role": "system", "content": "You are helpful."}


def ask(kind: BodyKind, session: bytes | None = None, **fields: Any) -> Ask:
    return raw_ask(kind, json.dumps({"model": "m", **fields}).encode(), session)


def raw_ask(kind: BodyKind, body: bytes, session: bytes | None = None) -> Ask:
    return ask_of(kind, peek(kind, body).fields, session)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def chat(*messages: Any, **fields: Any) -> Ask:
    return ask(kinds.CHAT, messages=messages, **fields)


def test_a_chat_of_ollama() -> None:
    sut = chat(
        SYSTEM,
        user("hé") | {"images": [IMAGE, IMAGE]},
        said("") | {"thinking": "hm", "tool_calls": [{"function": {"name": "f"}}]},
        tools=[TOOL],
        think="high",
        format="json",
        options={"num_ctx": 4096, "use_mmap": False, "num_gpu": 2.0, "num_predict": 9, "seed": 1},
    )
    texts = len(SYSTEM["content"]) + 3 + 2
    raws = len(json.dumps([TOOL])) + len(json.dumps([{"function": {"name": "f"}}]))
    assert sut.task is Task.CHAT
    assert sut.prompt_bytes == texts + raws
    assert (sut.images, sut.inputs, sut.max_output_tokens) == (2, 1, 9)
    assert sut.options == (("num_ctx", 4096), ("num_gpu", 2), ("use_mmap", False))
    assert sut.num_ctx == 4096
    assert sut.needs == {"vision", "tools", "thinking"}
    assert sut.is_structured


def test_a_plain_chat_needs_nothing() -> None:
    sut = chat(user("hi"), tools=[], think=False, format="", options=None)
    assert sut.needs == frozenset()
    assert sut.options == ()
    assert (sut.prompt_bytes, sut.max_output_tokens, sut.is_structured) == (2, None, False)


def test_a_chat_of_openai() -> None:
    parts = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
    ]
    sut = ask(
        kinds.V1_CHAT,
        messages=[SYSTEM, user(parts), user(parts[1:])],
        max_tokens=7,
        max_completion_tokens=5,
        reasoning_effort="low",
        response_format={"type": "json_schema", "json_schema": {}},
        options={"num_ctx": 1},
    )
    assert sut.prompt_bytes == len(SYSTEM["content"]) + len("what is this")
    assert (sut.images, sut.max_output_tokens, sut.options) == (2, 5, ())
    assert sut.needs == {"vision", "thinking"}
    assert sut.is_structured


def test_messages_of_anthropic() -> None:
    turn = user([
        {"type": "image", "source": {"type": "base64", "data": IMAGE}},
        {"type": "tool_result", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "content": "rain"},
        {"type": "tool_use", "input": {"a": 1}},
    ])  # fmt: skip
    sut = ask(
        kinds.V1_ANTHROPIC_MESSAGES,
        system=[{"type": "text", "text": "be brief"}],
        messages=[turn],
        max_tokens=10,
        thinking={"type": "enabled", "budget_tokens": 5},
        output_config={"format": {"type": "json_schema"}},
    )
    assert sut.prompt_bytes == len("be brief" + "sunny" + "rain" + '{"a": 1}')
    assert (sut.images, sut.max_output_tokens) == (1, 10)
    assert sut.needs == {"vision", "thinking"}
    assert sut.is_structured


def test_a_response() -> None:
    items = [
        user([{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": IMAGE}]),
        {"type": "function_call", "arguments": "{}"},
        {"type": "function_call_output", "output": "sunny"},
    ]
    sut = ask(
        kinds.V1_RESPONSES,
        instructions="be brief",
        input=items,
        max_output_tokens=3,
        reasoning={"effort": "high"},
        text={"format": {"type": "json_object"}},
    )
    assert sut.prompt_bytes == len("be brief" + "hi" + "{}" + "sunny")
    assert (sut.images, sut.max_output_tokens, sut.is_structured) == (1, 3, True)
    assert sut.needs == {"vision", "thinking"}
    plain = ask(kinds.V1_RESPONSES, input="hi")
    assert (plain.prompt_bytes, plain.needs, plain.is_structured) == (2, frozenset(), False)


def test_a_prompt_to_generate() -> None:
    sut = ask(
        kinds.GENERATE,
        prompt="def f(",
        suffix="return 1",
        system="code",
        images=[IMAGE],
        context=[1, 2, 3],
        options={"num_predict": -1},
    )
    assert sut.prompt_bytes == len("def f(" + "return 1" + "code") + 3 * 4
    assert (sut.task, sut.images, sut.max_output_tokens) == (Task.GENERATE, 1, None)


def test_a_prompt_to_complete() -> None:
    sut = ask(kinds.V1_COMPLETIONS, prompt="hi", suffix="ho", max_tokens=4)
    assert (sut.prompt_bytes, sut.max_output_tokens, sut.inputs) == (4, 4, 1)
    assert sut.conversation


@pytest.mark.parametrize(
    ("given", "size", "inputs"),
    [
        ("hé", 3, 1),
        (["a", "bc"], 3, 2),
        ([], 0, 1),
        ([1, 2], 8, 1),
        ([[1], [2, 3]], 12, 2),
        (7, 0, 1),
        (["a", {"b": 1}], 1, 2),
    ],
)
def test_texts_to_embed(given: object, size: int, inputs: int) -> None:
    for kind in (kinds.EMBED, kinds.V1_EMBEDDINGS):
        sut = ask(kind, input=given)
        assert (sut.task, sut.prompt_bytes, sut.inputs) == (Task.EMBED, size, inputs)
        assert sut.needs == frozenset({"embedding"})
        assert sut.conversation == 0
    assert ask(kinds.EMBEDDINGS, prompt="abc", options={"num_ctx": 5}) == Ask(
        Task.EMBED, 3, options=(("num_ctx", 5),), needs=frozenset({"embedding"})
    )


def test_an_embedding_belongs_to_no_conversation() -> None:
    assert ask(kinds.EMBED, b"mine", input="a").conversation == 0
    assert ask(kinds.EMBED).prompt_bytes == 0


@pytest.mark.parametrize(
    "kind", [kinds.SHOW, kinds.V1_TRANSCRIPTIONS, kinds.V1_IMAGES, kinds.other_kind("/api/new")]
)
def test_of_other_bodies_only_the_task_is_told(kind: BodyKind) -> None:
    assert ask(kind, prompt="x", messages=[user("x")]) == Ask(kind.task)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_ctx": "4096"}, ()),
        ({"num_ctx": True}, ()),
        ({"use_mmap": 1}, ()),
        ({"num_ctx": 1e300}, ()),
        ({"num_ctx": 2**63}, ()),
        ({"NUM_CTX": 5}, ()),
        ({"num_ctx": 5.9, "main_gpu": 0}, (("main_gpu", 0), ("num_ctx", 5))),
        ({"num_thread": None, "num_batch": 8}, (("num_batch", 8),)),
        ([1], ()),
    ],
)
def test_runner_options_count_when_ollama_takes_them(options: object, expected: object) -> None:
    assert chat(user("hi"), options=options).options == expected


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (kinds.CHAT, {"think": True}, True),
        (kinds.CHAT, {"think": "none"}, False),
        (kinds.CHAT, {"think": 7}, False),
        (kinds.CHAT, {"think": None}, False),
        (kinds.V1_CHAT, {"reasoning_effort": "none"}, False),
        (kinds.V1_CHAT, {"reasoning": {"effort": "low"}}, True),
        (kinds.V1_CHAT, {"reasoning": {}}, False),
        (kinds.V1_ANTHROPIC_MESSAGES, {"thinking": {"type": "disabled"}}, False),
        (kinds.V1_ANTHROPIC_MESSAGES, {"thinking": {"type": "adaptive"}}, True),
    ],
)
def test_who_asks_for_thinking(kind: BodyKind, fields: dict[str, Any], expected: bool) -> None:
    assert ("thinking" in ask(kind, messages=[user("hi")], **fields).needs) is expected


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (kinds.CHAT, {"format": {"type": "object"}}, True),
        (kinds.CHAT, {"format": None}, False),
        (kinds.V1_CHAT, {"response_format": {"type": "text"}}, False),
        (kinds.V1_CHAT, {"response_format": 7}, False),
        (kinds.V1_RESPONSES, {"text": {"format": None}}, False),
        (kinds.V1_RESPONSES, {"text": {"verbosity": "low"}}, False),
        (kinds.V1_ANTHROPIC_MESSAGES, {"output_config": {"effort": "low"}}, False),
        (kinds.V1_ANTHROPIC_MESSAGES, {"output_format": {"type": "json_schema"}}, True),
        (kinds.V1_COMPLETIONS, {"format": "json"}, False),
    ],
)
def test_what_makes_an_answer_structured(
    kind: BodyKind, fields: dict[str, Any], expected: bool
) -> None:
    assert ask(kind, messages=[user("hi")], **fields).is_structured is expected


@pytest.mark.parametrize("limit", [0, -1, "7", True, None, 1.5])
def test_a_limit_that_is_no_positive_number_is_none(limit: object) -> None:
    assert ask(kinds.V1_CHAT, messages=[user("hi")], max_tokens=limit).max_output_tokens is None


@pytest.mark.parametrize(
    ("messages", "size"),
    [
        (b'[{"role":"user","content":"hi"},7,{"content":{}},{"content":"ho"}]', 4),
        (b'[{"role":"user","content":"\\ud800hi"}]', 5),
        (b'[{"role":"user","content":"h\xffi"}]', 5),
        (b'[{"role":7,"content":"hi"}]', 0),
        (b'{"role":"user"}', 0),
        (b"null", 0),
        (b"[null]", 0),
    ],
)
def test_of_odd_messages_what_can_be_read_counts(messages: bytes, size: int) -> None:
    fields = peek(kinds.V1_CHAT, b'{"model":"m","messages":' + messages + b"}").fields
    assert ask_of(kinds.V1_CHAT, fields).prompt_bytes == size


def test_messages_that_are_nested_deeply_are_read_as_far_as_this_python_can() -> None:
    deep = b"[" * 3000 + b"]" * 3000
    body = b'{"model":"m","messages":[{"content":' + deep + b'},{"content":"hi"}]}'
    fields = peek(kinds.V1_CHAT, body).fields
    assert ask_of(kinds.V1_CHAT, fields).prompt_bytes in (0, 2)


def test_odd_fields_are_no_error() -> None:
    for kind in (kinds.V1_COMPLETIONS, kinds.V1_RESPONSES, kinds.V1_ANTHROPIC_MESSAGES):
        body = b'{"suffix":7,"system":7,"instructions":{},"input":7,"tools":7,"thinking":"\\ud800"}'
        assert raw_ask(kind, body).prompt_bytes == 0
    odd = ask(kinds.GENERATE, prompt="hi", suffix=7, system=[7], images={}, context="x", options=1)
    assert (odd.prompt_bytes, odd.images) == (2, 0)


# Conversations


def test_a_chat_that_goes_on_is_one_conversation() -> None:
    first = chat(SYSTEM, user("hi"), tools=[TOOL])
    later = chat(SYSTEM, user("hi"), said("hello"), user("and?"), tools=[TOOL])
    assert 0 < first.conversation == later.conversation < 2**64


def test_a_shared_system_prompt_makes_no_conversation() -> None:
    long = {"role": "system", "content": "You are helpful. " * 500}
    told = {chat(long, user(f"question {number}")).conversation for number in range(20)}
    assert len(told) == 20


def test_the_model_the_system_and_the_tools_count() -> None:
    told = {
        chat(user("hi")).conversation,
        chat(SYSTEM, user("hi")).conversation,
        chat(user("hi"), tools=[TOOL]).conversation,
        chat(user("hi"), model="other").conversation,
        chat(said("welcome"), user("hi")).conversation,
    }
    assert len(told) == 5


def test_different_images_with_one_question_are_different_conversations() -> None:
    one, other = IMAGE + "B" * 100, IMAGE + "C" * 100
    assert (
        chat(user("what?") | {"images": [one]}).conversation
        != chat(user("what?") | {"images": [other]}).conversation
    )


def test_moving_cache_marks_change_no_conversation() -> None:
    def messages(mark: dict[str, Any]) -> Ask:
        turn = user([{"type": "text", "text": "hi", **mark}])
        return ask(kinds.V1_ANTHROPIC_MESSAGES, system="s", messages=[turn])

    assert messages({}).conversation == messages({"cache_control": {"type": "x"}}).conversation


def test_what_only_loads_a_model_is_no_conversation() -> None:
    for sut in (chat(), ask(kinds.GENERATE), ask(kinds.GENERATE, prompt="", system="s")):
        assert sut.conversation == 0


def test_a_session_counts_instead() -> None:
    one, two = (ask(kinds.CHAT, b"mine", messages=[user(text)]) for text in ("a", "b"))
    assert one.conversation == two.conversation != 0
    assert one.conversation != ask(kinds.CHAT, b"yours", messages=[user("a")]).conversation
    assert ask(kinds.CHAT, b"", messages=[user("a")]).conversation == chat(user("a")).conversation
    assert ask(kinds.CHAT, b"mine").conversation == one.conversation


def test_a_growing_prompt_in_a_chat_template_is_one_conversation() -> None:
    start = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    first = ask(kinds.GENERATE, prompt=start + "<|im_start|>assistant\n", raw=True)
    later = ask(
        kinds.GENERATE,
        prompt=start + "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nand?",
        raw=True,
    )
    other = ask(kinds.GENERATE, prompt=start.replace("hi", "ho") + "<|im_start|>assistant\n")
    assert first.conversation == later.conversation != other.conversation


def test_prompts_that_only_begin_alike_are_different_conversations() -> None:
    shared = "Classify [this] <text>: " * 200
    one, two = (ask(kinds.GENERATE, prompt=shared + text) for text in ("good", "bad"))
    assert one.conversation != two.conversation
    assert one.conversation == ask(kinds.GENERATE, prompt=shared + "good").conversation


def test_a_growing_context_is_one_conversation_until_it_has_doubled() -> None:
    def turn(tokens: int) -> int:
        return ask(kinds.GENERATE, prompt=f"{tokens}", context=list(range(10**4, 10**4 + tokens))).conversation  # fmt: skip

    assert len({turn(tokens) for tokens in range(150, 290, 10)}) == 1
    assert turn(150) != turn(300)
