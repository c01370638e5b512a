"""Numbers in the answers of nodes, as real ones write them and in odd forms."""

import json
from typing import Any

import pytest

from sollol.errors import ProtocolViolation
from sollol.types import Measured
from sollol.wire.llama_chunks import Timings, Usage
from sollol.wire.measured import (
    NOTHING_TOLD,
    measured_of_body,
    measured_of_record,
    measured_of_stream,
    measured_of_timings,
    read_body,
)
from sollol.wire.streams import StreamFraming, WholeLines, last_record

OLLAMA = {
    "model": "m",
    "done": True,
    "total_duration": 4_000_000_000,
    "load_duration": 1_000_000_000,
    "prompt_eval_count": 20,
    "prompt_eval_cached_count": 0,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 8,
    "eval_duration": 2_000_000_000,
}
OF_OLLAMA = Measured(1.0, 20, 0, 0.5, 8, 2.0, 4.0)
TIMINGS = {
    "cache_n": 236,
    "prompt_n": 1,
    "prompt_ms": 250.0,
    "predicted_n": 35,
    "predicted_ms": 500.0,
}
OF_TIMINGS = Measured(
    prompt_tokens=237, cached_tokens=236, prompt_s=0.25, output_tokens=35, output_s=0.5
)


def body(value: Any) -> Measured | None:
    return measured_of_body(json.dumps(value).encode())


def stream(*pieces: bytes, framing: StreamFraming = StreamFraming.SSE) -> Measured | None:
    lines = WholeLines()
    for piece in pieces:
        lines.feed(piece)
    last = last_record(lines.last_line(), framing)
    assert last is not None
    return measured_of_stream(last, pieces[0], lines.tail())


def event(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def test_ollamas_record() -> None:
    assert body(OLLAMA) == OF_OLLAMA
    line = json.dumps(OLLAMA).encode() + b"\n"
    assert stream(b'{"done":false}\n', line, framing=StreamFraming.NDJSON) == OF_OLLAMA
    assert body({"response": "hi", "total_duration": 5_000_000_000}) == Measured(node_total_s=5.0)


@pytest.mark.parametrize("field", ["eval_count", "load_duration"])
@pytest.mark.parametrize("odd", ["7", -1, True, [1], 1.5, int("9" * 320)])
def test_numbers_in_another_form_tell_nothing(field: str, odd: object) -> None:
    assert body({**OLLAMA, field: odd}) == NOTHING_TOLD
    assert body({**OLLAMA, "eval_count": 2**60}) == NOTHING_TOLD


def test_a_number_that_is_null_is_unknown() -> None:
    sut = body({**OLLAMA, "load_duration": None, "eval_count": None})
    assert sut is not None
    assert (sut.load_s, sut.output_tokens, sut.output_s) == (None, None, 2.0)


@pytest.mark.parametrize("field", ["prompt_n", "prompt_ms"])
def test_numbers_below_zero_are_unknown(field: str) -> None:
    sut = body({"timings": {**TIMINGS, "cache_n": None, field: -1}})
    assert sut is not None
    assert {sut.prompt_tokens, sut.prompt_s} == {None, {"prompt_n": 0.25, "prompt_ms": 1}[field]}


def test_a_stream_with_an_odd_number_is_whole_all_the_same() -> None:
    line = json.dumps({**OLLAMA, "eval_count": "many"}).encode()
    assert last_record(line, StreamFraming.NDJSON) is not None


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 237, "completion_tokens": 35}])
@pytest.mark.parametrize("is_joined", [False, True])
def test_llama_servers_timings(usage: object, is_joined: bool) -> None:
    last = {"choices": [{"finish_reason": "stop"}], "timings": TIMINGS, "usage": usage}
    pieces = [event({"choices": []}), event(last), DONE]
    assert stream(*([b"".join(pieces)] if is_joined else pieces)) == OF_TIMINGS
    assert body(last) == OF_TIMINGS


def test_usage_of_openai() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    assert body({"usage": usage}) == Measured(prompt_tokens=5, output_tokens=3)
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 4}}
    chunk = event({"choices": [], "usage": cached})
    assert stream(chunk, DONE) == Measured(prompt_tokens=5, cached_tokens=4, output_tokens=3)
    assert body({"usage": {"prompt_tokens": 5}}) == Measured(prompt_tokens=5)


def test_usage_of_a_response() -> None:
    usage = {"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 0}}
    told = Measured(prompt_tokens=5, output_tokens=3)
    assert body({"error": None, "usage": usage}) == told
    ended = {"type": "response.completed", "response": {"usage": usage}}
    assert stream(event(ended, "response.completed")) == told
    usage["input_tokens_details"] = {"cached_tokens": 2}
    assert body({"usage": usage}) == Measured(prompt_tokens=5, cached_tokens=2, output_tokens=3)


@pytest.mark.parametrize("is_joined", [False, True])
def test_usage_of_anthropic(is_joined: bool) -> None:
    start = {"input_tokens": 3, "cache_read_input_tokens": 7, "output_tokens": 0}
    pieces = [
        event({"type": "message_start", "message": {"usage": start}}, "message_start"),
        event({"type": "content_block_delta"}, "content_block_delta"),
        event({"type": "message_delta", "usage": {"output_tokens": 4}}, "message_delta"),
        event({"type": "message_stop"}, "message_stop"),
    ]
    told = Measured(prompt_tokens=10, cached_tokens=7, output_tokens=4)
    assert stream(*([b"".join(pieces)] if is_joined else pieces)) == told
    pieces[2] = event({"type": "message_delta", "usage": {"input_tokens": 9, "output_tokens": 4}})
    assert stream(*pieces) == Measured(prompt_tokens=9, cached_tokens=7, output_tokens=4)
    assert body({"type": "message", "usage": start}) == Measured(
        prompt_tokens=10, cached_tokens=7, output_tokens=0
    )


@pytest.mark.parametrize(
    "pieces",
    [
        [DONE],
        [event({"choices": []}), DONE],
        [b"data: {broken\n\n", DONE],
        [event({"usage": 7, "timings": "x"}), DONE],
        [event({"usage": {"prompt_tokens": "x"}}), DONE],
        [event({"type": "message_stop"})],
        [b"event: x\n", event({"type": "message_stop"})],
        [event({"type": "response.completed", "response": 7})],
    ],
)
def test_a_stream_that_tells_nothing(pieces: list[bytes]) -> None:
    assert stream(*pieces) == NOTHING_TOLD


def test_errors_are_no_measure() -> None:
    assert body({"error": "boom"}) is None
    assert stream(b'{"error":"boom"}\n', framing=StreamFraming.NDJSON) is None
    assert stream(event({"error": {"message": "boom"}})) is None
    assert stream(event({"type": "error"})) is None
    assert stream(event({"type": "response.failed", "response": {}})) is None


@pytest.mark.parametrize("whole", [b"[]", b'{"done":"yes"}', b"[" * 5000 + b"]" * 5000])
def test_a_body_that_is_something_else_tells_nothing(whole: bytes) -> None:
    assert measured_of_body(whole) == NOTHING_TOLD
    assert read_body(whole, is_embedding=True) is None


@pytest.mark.parametrize("whole", [b"", b"x", b"\xff", b'{"done":tru', b'{"a":1', b"[1,2"])
@pytest.mark.parametrize("is_embedding", [False, True])
def test_a_body_that_is_no_json_is_broken(whole: bytes, is_embedding: bool) -> None:
    with pytest.raises(ProtocolViolation, match="no JSON"):
        read_body(whole, is_embedding=is_embedding)


def test_the_vectors_of_embeddings_are_stepped_over() -> None:
    ollama = b'{"model":"m","embeddings":[[0.1,broken],[0.2]],"total_duration":5000000000,"prompt_eval_count":4}'
    told = read_body(ollama, is_embedding=True)
    assert told is not None
    assert measured_of_record(told) == Measured(prompt_tokens=4, node_total_s=5.0)
    llama = b'{"model":"m","usage":{"prompt_tokens":4},"data":[{"embedding":[broken]}]}'
    told = read_body(llama, is_embedding=True)
    assert told is not None
    assert measured_of_record(told) == Measured(prompt_tokens=4)


def test_what_a_translator_has_read() -> None:
    assert measured_of_timings(Timings(236, 1, 250.0, 35, 500.0), None) == OF_TIMINGS
    assert measured_of_timings(None, Usage(prompt_tokens=4)) == Measured(prompt_tokens=4)
    assert measured_of_timings(None, None) == NOTHING_TOLD
