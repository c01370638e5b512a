from typing import Any

import msgspec
import pytest

from sollol.errors import InvalidOption, InvalidRequest, UnsupportedByEngine
from sollol.wire.ollama import Clock
from sollol.wire.translate_request import LocalAnswer, Translated
from tests.translating import translated

CLOCK = Clock(utc_ns=lambda: 1_700_000_000_120_000_000, monotonic_ns=lambda: 0)
STAMP = '"created_at":"2023-11-14T22:13:20.12Z"'
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAE="
USER = {"role": "user", "content": "hi"}


def put(path: str, **fields: Any) -> Translated:
    return translated(path, fields, model="Gemma3", upstream_model="gemma3:270m", clock=CLOCK)


def sent(path: str, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(put(path, **fields).body)
    return body


def local(path: str, **fields: Any) -> str:
    answered = put(path, **fields)
    assert isinstance(answered.response, LocalAnswer)
    assert (answered.target, answered.body) == ("", b"")
    return answered.response.body.decode()


def test_a_chat_becomes_a_chat_completion_with_ollamas_defaults() -> None:
    assert put("/api/chat", messages=[USER]).target == "/v1/chat/completions"
    assert sent("/api/chat", messages=[USER]) == {
        "model": "gemma3:270m",
        "messages": [USER],
        "n_keep": 4,
        "seed": -1,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "temperature": 0.8,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": -1,
        "stream": True,
        "cache_prompt": True,
        "timings_per_token": False,
        "reasoning_format": "auto",
        "stream_options": {"include_usage": True},
    }


def test_a_chat_that_does_not_stream() -> None:
    asked = put("/api/chat", messages=[USER], stream=False)
    body = msgspec.json.decode(asked.body)
    assert body["stream"] is False
    assert "stream_options" not in body
    assert not isinstance(asked.response, LocalAnswer)
    assert asked.response.streaming is False
    assert asked.response.content_type == b"application/json; charset=utf-8"


def test_options_reach_the_node_and_runner_options_do_not() -> None:
    body = sent(
        "/api/chat",
        messages=[USER],
        options={
            "temperature": 0,
            "num_predict": 7,
            "seed": 5.9,
            "stop": ["a", "b"],
            "num_ctx": 9,
            "use_mmap": True,
            "invented": "x",
            "top_k": None,
        },
    )
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 7, 5)
    assert (body["stop"], body["top_k"]) == (["a", "b"], 40)
    assert not {"num_ctx", "use_mmap", "invented", "num_predict", "num_keep"} & set(body)


def test_fill_the_context_is_no_limit_and_one_stop_may_be_a_string() -> None:
    body = sent("/api/chat", messages=[USER], options={"num_predict": -2, "stop": "x"})
    assert (body["max_tokens"], body["stop"]) == (-1, ["x"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"seed": "1"}, 'option "seed" must be of type integer'),
        ({"top_k": True}, 'option "top_k" must be of type integer'),
        ({"num_ctx": "big"}, 'option "num_ctx" must be of type integer'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": 1}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_a_wrong_option_has_ollamas_status_and_text(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        put("/api/chat", messages=[USER], options=options)
    assert (str(caught.value), caught.value.status) == (text, 500)


def test_messages_keep_thinking_tools_and_images() -> None:
    body = sent(
        "/api/chat",
        messages=[
            {"role": "User", "content": "look", "images": [PNG]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "hm",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "content": "11", "tool_name": "f"},
        ],
        tools=[{"type": "function", "function": {"name": "f"}}],
    )
    look, assistant, tool = body["messages"]
    assert look["role"] == "user"
    assert look["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "text", "text": "look"},
    ]
    assert assistant["reasoning_content"] == "hm"
    [call] = assistant["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert tool == {"role": "tool", "content": "11", "tool_call_id": call["id"], "name": "f"}
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_tool_results_find_their_calls_by_id_by_name_and_in_order() -> None:
    calls = [
        {"function": {"name": "f", "arguments": {}}},
        {"function": {"name": "g", "arguments": None}},
        {"id": "own", "function": {"name": "h", "arguments": {}}},
    ]
    results = [
        {"role": "tool", "tool_call_id": "own"},
        {"role": "tool", "tool_name": "g"},
        {"role": "tool"},
        {"role": "tool", "tool_name": "nobody"},
    ]
    messages = [{"role": "assistant", "tool_calls": calls}, *results]
    said = sent("/api/chat", messages=messages)["messages"]
    ids = [call["id"] for call in said[0]["tool_calls"]]
    answered = [message["tool_call_id"] for message in said[1:]]
    assert answered[:3] == [ids[2], ids[1], ids[0]]
    assert answered[3] not in ids


def test_made_ids_are_the_same_on_the_next_turn() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    first = sent("/api/chat", messages=[USER, call])["messages"]
    second = sent("/api/chat", messages=[USER, call, {"role": "tool"}, USER])["messages"]
    assert second[: len(first)] == first


@pytest.mark.parametrize(
    ("start", "part"),
    [
        ("/9j/4AAQSkZJRgABAQAAAQAB", "data:image/jpeg;base64,"),
        ("R0lGODlhAQABAIAAAAAAAP//", "data:image/gif;base64,"),
        ("UklGRiQAAABXRUJQVlA4IBgA", "data:image/webp;base64,"),
        ("Qk0eAAAAAAAAABoAAAAMAAAA", "data:image/bmp;base64,"),
        ("AAAA", "data:image/jpeg;base64,"),
    ],
)
def test_the_kind_of_an_image_is_told_by_its_first_bytes(start: str, part: str) -> None:
    messages = [{"role": "user", "content": "", "images": [start]}]
    content = sent("/api/chat", messages=messages)["messages"][0]["content"]
    assert content[0]["image_url"]["url"] == part + start


def test_an_image_may_be_a_list_of_bytes() -> None:
    messages = [{"role": "user", "images": [[255, 216, None], None]}]
    content = sent("/api/chat", messages=messages)["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in content[:2]]
    assert urls == ["data:image/jpeg;base64,/9gA", "data:image/jpeg;base64,"]


def test_a_message_is_read_as_go_reads_it() -> None:
    """Names have no case; null and a missing field are the same."""
    call = {"ID": "x", "Function": {"NAME": "f", "arguments": None}}
    messages = [{"Role": "USER", "CONTENT": "hi", "images": None}, {"tool_calls": [call]}, None]
    user, assistant, nothing = sent("/api/chat", messages=messages)["messages"]
    assert user == {"role": "user", "content": "hi"}
    function = {"name": "f", "arguments": "{}"}
    assert assistant["tool_calls"] == [{"id": "x", "type": "function", "function": function}]
    assert nothing == {"role": "", "content": ""}


def test_audio_travels_as_audio() -> None:
    wav = "UklGRiQAAABXQVZFZm10IBAA"
    messages = [{"role": "user", "content": "x", "images": [wav[:8] + "\n" + wav[8:]]}]
    content = sent("/api/chat", messages=messages)["messages"][0]["content"]
    assert content[0] == {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}


@pytest.mark.parametrize(
    ("think", "arguments"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("max", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_think_goes_to_the_template(think: object, arguments: dict[str, Any]) -> None:
    body = sent("/api/chat", messages=[USER], think=think)
    assert body["chat_template_kwargs"] == arguments
    assert body["reasoning_format"] == "auto"


def test_formats_of_a_chat() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "response_format" not in sent("/api/chat", messages=[USER], format="")
    assert "response_format" not in sent("/api/chat", messages=[USER], format=None)
    assert sent("/api/chat", messages=[USER], format=schema)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"schema": schema},
    }
    any_object = sent("/api/chat", messages=[USER], format="json")["response_format"]
    assert any_object == {"type": "json_object", "schema": {"type": "object"}}


@pytest.mark.parametrize(("value", "quoted"), [("yaml", r'"\"yaml\""'), (3, '"3"'), ([], '"[]"')])
def test_an_unknown_format_has_ollamas_status_and_text(value: object, quoted: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        put("/api/chat", messages=[USER], format=value)
    wanted = f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'
    assert (str(caught.value), caught.value.status) == (wanted, 500)


def test_logprobs_are_asked_for_with_at_least_one() -> None:
    body = sent("/api/chat", messages=[USER], logprobs=True)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 1)
    body = sent("/api/generate", prompt="x", raw=True, logprobs=True, top_logprobs=3)
    assert body["n_probs"] == 3
    assert "top_logprobs" not in sent("/api/chat", messages=[USER], top_logprobs=3)


def test_generate_goes_through_the_template() -> None:
    asked = put("/api/generate", prompt="hi", system="be kind", images=[PNG])
    assert asked.target == "/v1/chat/completions"
    system, user = msgspec.json.decode(asked.body)["messages"]
    assert system == {"role": "system", "content": "be kind"}
    assert user["content"][1] == {"type": "text", "text": "hi"}


def test_raw_generate_is_a_native_completion() -> None:
    asked = put("/api/generate", prompt="hi", raw=True, format="json", options={"num_predict": 3})
    body = msgspec.json.decode(asked.body)
    assert asked.target == "/completion"
    assert (body["prompt"], body["n_predict"], body["stream"]) == ("hi", 3, True)
    assert body["json_schema"] == {"type": "object"}
    assert "max_tokens" not in body
    assert "messages" not in body


def test_a_suffix_is_an_infill() -> None:
    asked = put("/api/generate", prompt="a", suffix="b")
    body = msgspec.json.decode(asked.body)
    assert asked.target == "/infill"
    assert (body["input_prefix"], body["input_suffix"], body["prompt"]) == ("a", "b", "")
    assert put("/api/generate", prompt="a", suffix="b", raw=True).target == "/completion"


def test_what_only_an_ollama_node_can_do() -> None:
    for fields in ({"template": "x"}, {"context": [1]}, {"raw": True, "images": [PNG]}):
        with pytest.raises(UnsupportedByEngine) as caught:
            put("/api/generate", prompt="x", **fields)
        assert caught.value.status == 400
    assert put("/api/generate", prompt="x", template="", context=[]).target


def test_loading_and_unloading_are_answered_without_a_node() -> None:
    chat = f'{{"model":"Gemma3",{STAMP},"message":{{"role":"assistant","content":""}},"done":true'
    assert local("/api/chat") == chat + ',"done_reason":"load"}'
    assert local("/api/chat", messages=[], keep_alive=0) == chat + ',"done_reason":"unload"}'
    generate = f'{{"model":"Gemma3",{STAMP},"response":"","done":true,"done_reason":'
    assert local("/api/generate", prompt="", keep_alive="5m") == generate + '"load"}'
    assert local("/api/generate", keep_alive="0", stream=True) == generate + '"unload"}'


@pytest.mark.parametrize(
    "value", [-1, "-1s", 60, "1h30m", 0.5, "500ms", "1ns", 1.5, "1.5h", None, 1e300, -1e300, 1e308]
)
def test_any_other_keep_alive_loads(value: object) -> None:
    assert local("/api/generate", keep_alive=value).endswith('"load"}')


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("generate", {"keep_alive": "abc"}, 'time: invalid duration "abc"'),
        ("generate", {"keep_alive": ""}, 'time: invalid duration ""'),
        ("generate", {"keep_alive": "-"}, 'time: invalid duration "-"'),
        ("generate", {"keep_alive": "5"}, 'time: missing unit in duration "5"'),
        ("generate", {"keep_alive": "5x"}, 'time: unknown unit "x" in duration "5x"'),
        ("generate", {"keep_alive": {}}, "Unsupported type: 'map[string]interface {}'"),
        ("embed", {"keep_alive": "abc"}, 'time: invalid duration "abc"'),
        ("embeddings", {"keep_alive": "abc"}, 'time: invalid duration "abc"'),
        ("generate", {"images": ["!!!"]}, "illegal base64 data at input byte 0"),
        ("generate", {"images": ["data:x"]}, "illegal base64 data at input byte 4"),
        ("generate", {"images": ["AAAAA"]}, "illegal base64 data at input byte 4"),
        ("generate", {"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        (
            "generate",
            {"prompt": "x", "raw": True, "system": "s"},
            "raw mode does not support template, system, or context",
        ),
        (
            "generate",
            {"think": "huge"},
            'invalid think value: "huge" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            "generate",
            {"think": 3},
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        (
            "generate",
            {"options": "x"},
            "json: cannot unmarshal string into Go struct field GenerateRequest.options"
            " of type map[string]interface {}",
        ),
        (
            "generate",
            {"stream": "yes"},
            "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
        ),
        (
            "generate",
            {"top_logprobs": 1.5},
            "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.top_logprobs"
            " of type int",
        ),
        (
            "generate",
            {"images": [{}]},
            "json: cannot unmarshal object into Go struct field GenerateRequest.images"
            " of type api.ImageData",
        ),
        (
            "chat",
            {"messages": "hi"},
            "json: cannot unmarshal string into Go struct field ChatRequest.messages"
            " of type []api.Message",
        ),
        (
            "chat",
            {"messages": [True]},
            "json: cannot unmarshal bool into Go struct field ChatRequest.messages"
            " of type api.Alias",
        ),
        (
            "chat",
            {"messages": [{"content": []}]},
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content"
            " of type string",
        ),
        (
            "chat",
            {"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
            "Value looks like object, but can't find closing '}' symbol",
        ),
        (
            "chat",
            {"messages": [{"tool_calls": ["f"]}]},
            "json: cannot unmarshal string into Go struct field ChatRequest.messages.tool_calls"
            " of type api.ToolCall",
        ),
        ("embed", {"input": 1}, "invalid input type"),
        ("embed", {"input": ["a", 1]}, "invalid input type"),
    ],
)
def test_what_ollama_refuses_is_refused_in_its_words(
    path: str, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        put(f"/api/{path}", **fields)
    assert (str(caught.value), caught.value.status) == (text, 400)


def test_another_route_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="/api/show"):
        put("/api/show")
