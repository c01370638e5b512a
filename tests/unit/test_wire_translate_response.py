import json
from typing import Any

import pytest

from sollol.errors import ProtocolViolation, UpstreamCut
from sollol.wire.ollama import Clock, TextPart, TextRecords, encode, timestamp
from sollol.wire.translate_request import LocalAnswer
from sollol.wire.translate_response import BoundedBody, ResponseTranslator
from tests.translating import translated

MS = 1_000_000
STAMP = "2023-11-14T22:13:20Z"
HEAD = f'{{"model":"m","created_at":"{STAMP}",'
TIMINGS = {"cache_n": 21, "prompt_n": 5, "prompt_ms": 124.4, "predicted_n": 3, "predicted_ms": 82.3}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
RAW = {"prompt": "hi", "raw": True}


def answer(path: str = "/api/chat", **fields: Any) -> ResponseTranslator:
    """A translator whose monotonic clock goes on by 100 ms at each look."""
    looks = iter(range(0, 10**9, 100 * MS)).__next__
    clock = Clock(utc_ns=lambda: 1_700_000_000 * 10**9, monotonic_ns=looks)
    default = CHAT if path == "/api/chat" else {"prompt": "hi"}
    response = translated(path, default | fields, clock=clock).response
    assert not isinstance(response, LocalAnswer)
    return response


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    finish = fields.pop("finish_reason", None)
    return event({"choices": [{"finish_reason": finish, "index": 0, "delta": fields}]})


USAGE_CHUNK = event({"choices": [], "usage": {"prompt_tokens": 26}, "timings": TIMINGS})
DONE = b"data: [DONE]\n\n"
METRICS = (
    '"total_duration":{},"prompt_eval_count":26,"prompt_eval_cached_count":21,'
    '"prompt_eval_duration":124400000,"eval_count":3,"eval_duration":82300000'
)


def test_a_chat_stream_as_llama_server_sends_it() -> None:
    response = answer()
    assert (response.streaming, response.content_type) == (True, b"application/x-ndjson")
    assert response.feed(delta(role="assistant", content=None)) == b""
    message = '"message":{"role":"assistant","content":"\\u003c|"}'
    assert response.feed(delta(content="<|")).decode() == f'{HEAD}{message},"done":false}}\n'
    assert response.feed(delta(finish_reason="length")) == b""
    assert response.feed(USAGE_CHUNK) == b""
    assert response.feed(DONE).decode() == (
        f'{HEAD}"message":{{"role":"assistant","content":""}},"done":true,"done_reason":"length",'
        f"{METRICS.format(200 * MS)}}}\n"
    )
    assert response.finish() == b""


def test_a_generate_stream_has_response_instead_of_message() -> None:
    response = answer("/api/generate")
    said = response.feed(delta(reasoning_content="hm")) + response.feed(delta(content="yes"))
    assert said.decode().splitlines() == [
        f'{HEAD}"response":"","thinking":"hm","done":false}}',
        f'{HEAD}"response":"yes","done":false}}',
    ]
    end = response.feed(delta(finish_reason="stop") + USAGE_CHUNK + DONE).decode()
    assert end == (
        f'{HEAD}"response":"","done":true,"done_reason":"stop",{METRICS.format(200 * MS)}}}\n'
    )


def test_thinking_of_a_chat_is_in_the_message() -> None:
    said = answer().feed(delta(reasoning_content="hm") + delta(reasoning="so")).decode()
    assert [json.loads(line)["message"] for line in said.splitlines()] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "", "thinking": "so"},
    ]


def tool_delta(index: int | None, **function: Any) -> bytes:
    call_id = function.pop("id", None)
    return delta(tool_calls=[{"index": index, "id": call_id, "function": function}])


def test_tool_calls_are_told_whole_in_one_record_before_the_last() -> None:
    response = answer()
    pieces = [
        tool_delta(0, id="abc", name="f", arguments=""),
        tool_delta(0, arguments='{"city":'),
        tool_delta(1, name="g", arguments=""),
        tool_delta(0, arguments='"Oslo"}'),
    ]
    assert response.feed(b"".join(pieces)) == b""
    end = response.feed(delta(finish_reason="tool_calls") + USAGE_CHUNK + DONE)
    calls, last = map(json.loads, end.splitlines())
    made_id = calls["message"]["tool_calls"][1].pop("id")
    assert made_id.startswith("call_")
    assert len(made_id) == len("call_12345678")
    assert calls["message"] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "abc", "function": {"index": 0, "name": "f", "arguments": {"city": "Oslo"}}},
            {"function": {"index": 1, "name": "g", "arguments": {}}},
        ],
    }
    assert (calls["done"], last["done"], last["done_reason"]) == (False, True, "stop")


def test_pieces_without_an_index_go_on_with_the_last_call() -> None:
    response = answer()
    pieces = [
        tool_delta(None, id="a", name="f", arguments='{"x"'),
        tool_delta(None, arguments=":1}"),
        tool_delta(None, id="b", name="g"),
        delta(tool_calls=[{}]),
    ]
    end = response.feed(b"".join(pieces) + delta(finish_reason="tool_calls") + DONE)
    told = json.loads(end.splitlines()[0])["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in told] == [{"x": 1}, {}]


def test_a_tool_call_cut_by_the_token_limit_is_left_out() -> None:
    response = answer()
    response.feed(tool_delta(0, name="f", arguments='{"city":'))
    [last] = response.feed(delta(finish_reason="length") + DONE).splitlines()
    assert json.loads(last)["done_reason"] == "length"


def test_arguments_that_are_no_object_are_the_nodes_fault() -> None:
    response = answer()
    response.feed(tool_delta(0, name="f", arguments="[1]") + delta(finish_reason="tool_calls"))
    with pytest.raises(ProtocolViolation, match="tool call"):
        response.feed(DONE)


def test_tool_calls_of_a_whole_answer_have_no_index() -> None:
    response = answer(stream=False)
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "function": {"name": "g", "arguments": {"y": 2}}},
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"finish_reason": "tool_calls", "message": message}
    response.feed(json.dumps({"choices": [choice], "timings": TIMINGS}).encode())
    told = json.loads(response.finish())["message"]["tool_calls"]
    assert [call["function"] for call in told] == [
        {"index": 0, "name": "f", "arguments": {"x": 1}},
        {"index": 1, "name": "g", "arguments": {"y": 2}},
    ]


def test_a_whole_chat_answer() -> None:
    response = answer(stream=False)
    choice = {"finish_reason": "stop", "message": {"content": "hi", "reasoning_content": "hm"}}
    body = json.dumps({"choices": [choice], "timings": TIMINGS, "id": "x"}).encode()
    assert response.feed(body[:9]) + response.feed(body[9:]) == b""
    message = '"message":{"role":"assistant","content":"hi","thinking":"hm"}'
    assert response.finish().decode() == (
        f'{HEAD}{message},"done":true,"done_reason":"stop",{METRICS.format(100 * MS)}}}'
    )


def native(**fields: Any) -> bytes:
    return event({"index": 0, "tokens": [1]} | fields)


def test_a_native_stream_ends_without_done() -> None:
    response = answer("/api/generate", **RAW)
    assert json.loads(response.feed(native(content="a", stop=False)))["response"] == "a"
    last = json.loads(
        response.feed(native(content="", stop=True, stop_type="limit", timings=TIMINGS))
        + response.finish()
    )
    assert (last["done_reason"], last["eval_count"], last["prompt_eval_count"]) == ("length", 3, 26)
    assert "context" not in last
    assert response.finish() == b""


def test_a_whole_native_answer() -> None:
    response = answer("/api/generate", **RAW, stream=False)
    body = {"content": "yes", "stop": True, "stop_type": "word", "timings": TIMINGS}
    response.feed(json.dumps(body).encode())
    last = json.loads(response.finish())
    assert (last["response"], last["done_reason"]) == ("yes", "stop")


def test_logprobs_in_ollamas_shape_and_number() -> None:
    token = {"id": 1, "token": "a", "bytes": [97], "logprob": -0.5}
    other = {"id": 2, "token": "b", "bytes": None, "logprob": None}
    content = [token | {"top_logprobs": [token, other]}]
    chunk = event(
        {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": content}}]},
    )
    plain = {"token": "a", "logprob": -0.5, "bytes": [97]}
    [alone] = json.loads(answer(logprobs=True).feed(chunk))["logprobs"]
    assert alone == plain
    [both] = json.loads(answer(logprobs=True, top_logprobs=2).feed(chunk))["logprobs"]
    assert both["top_logprobs"] == [plain, {"token": "b", "logprob": -9999.0}]


def test_without_timings_the_usage_and_our_clock_are_told() -> None:
    response = answer()
    response.feed(delta(content="a") + delta(finish_reason="stop"))
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    last = json.loads(response.feed(event({"choices": [], "usage": usage}) + DONE))
    assert {name: last[name] for name in last if name.endswith(("count", "duration"))} == {
        "total_duration": 200 * MS,
        "prompt_eval_count": 9,
        "prompt_eval_cached_count": 0,
        "prompt_eval_duration": 100 * MS,
        "eval_count": 2,
        "eval_duration": 100 * MS,
    }


def test_old_timings_without_a_cache_count() -> None:
    response = answer()
    timings = {"prompt_n": 4, "prompt_ms": 1, "predicted_n": 1, "predicted_ms": 1}
    last = json.loads(
        response.feed(delta(finish_reason="stop") + event({"timings": timings}) + DONE)
    )
    assert last["prompt_eval_count"] == 4
    assert "prompt_eval_cached_count" not in last


@pytest.mark.parametrize(
    "error", [{"code": 500, "message": "boom", "type": "server_error"}, "boom"]
)
def test_an_error_inside_a_stream_is_its_last_record(error: object) -> None:
    response = answer()
    response.feed(delta(content="a"))
    assert response.feed(event({"error": error}) + delta(content="b")) == b'{"error":"boom"}\n'
    assert response.feed(DONE) + response.finish() == b""


def test_a_cut_stream_is_never_a_clean_end() -> None:
    response = answer()
    response.feed(delta(content="a"))
    with pytest.raises(UpstreamCut):
        response.finish()
    with pytest.raises(UpstreamCut):
        answer(stream=False).finish()


def test_a_stream_that_finished_but_lost_its_end_marker_is_complete() -> None:
    response = answer()
    said = [
        (response.feed(part), response.is_over)
        for part in (delta(content="a"), delta(finish_reason="stop"))
    ]
    assert [is_over for _, is_over in said] == [False, True]
    assert json.loads(response.finish())["done"] is True


def test_comments_line_ends_and_odd_chunks_are_read() -> None:
    response = answer()
    odd = b": ping\r\n\r\nevent: x\r\ndata:\r\n\r\n" + event({}) + event({"choices": None})
    odd += event({"choices": [{}], "new": 1})
    assert response.feed(odd) == b""
    assert response.feed(delta(content="a").replace(b"\n", b"\r\n")) != b""


@pytest.mark.parametrize(
    "data", [b"nonsense", b"[1]", b'{"choices":3}', b'{"choices":[{"delta":1}]}']
)
def test_what_is_no_chunk_is_the_nodes_fault(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        answer().feed(b"data: " + data + b"\n\n")


@pytest.mark.parametrize("data", [b"nonsense", b"{}", b'{"error":{"message":"boom"}}'])
def test_a_whole_body_that_is_no_answer_is_the_nodes_fault(data: bytes) -> None:
    for fields in ({"messages": CHAT["messages"]}, RAW):
        path = "/api/generate" if "raw" in fields else "/api/chat"
        response = answer(path, **fields, stream=False)
        response.feed(data)
        with pytest.raises(ProtocolViolation):
            response.finish()


LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
ERRORS = [
    (503, LOADING, "Loading model"),
    (400, b'{"error":{"message":"request (9 tokens) exceeds"}}', "request (9 tokens) exceeds"),
    (500, b'{"error":"text"}', "text"),
    (502, b"<html>", "<html>"),
    (500, b"", "the node answered 500"),
    (500, b"[]", "the node answered 500"),
    (500, b'{"error":{}}', "the node reported an error"),
]


@pytest.mark.parametrize(("status", "body", "text"), ERRORS)
def test_an_error_answer_keeps_its_status_and_text(status: int, body: bytes, text: str) -> None:
    for response in (answer(), answer(stream=False), answer("/api/generate", **RAW)):
        told_status, told = response.error(status, body)
        assert (told_status, json.loads(told)) == (status, {"error": text})


def test_a_node_that_cannot_insert_says_it_as_ollama_does() -> None:
    body = b'{"error":{"code":501,"message":"Infill is not supported by this model"}}'
    response = answer("/api/generate", suffix="b")
    assert response.error(501, body) == (400, b'{"error":"\\"m\\" does not support insert"}')
    assert response.error(503, body)[0] == 503


def test_a_body_is_bounded() -> None:
    body = BoundedBody(max_bytes=3)
    body.add(b"ab")
    with pytest.raises(ProtocolViolation):
        body.add(b"cd")


@pytest.mark.parametrize(
    ("utc_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_100_000_000, "2023-11-14T22:13:20.1Z"),
    ],
)
def test_stamps_are_gos(utc_ns: int, text: str) -> None:
    assert timestamp(utc_ns) == text


def test_json_is_gos() -> None:
    assert encode({"a": "<&>\u2028\u2029é"}).decode() == (
        '{"a":"\\u003c\\u0026\\u003e\\u2028\\u2029é"}'
    )


def test_a_last_generate_record_has_ollamas_order() -> None:
    records = TextRecords(is_chat=False, model="m", clock=Clock(utc_ns=lambda: 0))
    part = TextPart("a", "b", [{"id": "x"}], [{"token": "a"}])
    assert list(json.loads(records.final(part, "stop", {"eval_count": 1}))) == [
        "model",
        "created_at",
        "response",
        "thinking",
        "done",
        "done_reason",
        "eval_count",
        "tool_calls",
        "logprobs",
    ]
