"""What is told to be an answer of a model, and what only looks like one."""

import pytest

from sollol.types import Task
from sollol.wire.answers import first_record, is_answer, is_refusal
from sollol.wire.measured import read_body
from sollol.wire.streams import StreamFraming

NDJSON, SSE = StreamFraming.NDJSON, StreamFraming.SSE
DEEP = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"


def answers(body: bytes, task: Task) -> bool:
    return is_answer(body, read_body(body, is_embedding=task is Task.EMBED), task)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","message":{"content":"a"},"done":true,"total_duration":5,"eval_count":1}',
        b'{"model":"m","response":"","done":true,"done_reason":"load"}',
        b'{"model":"m","done":false,"_debug_info":{"rendered_template":"x"}}',
        b'{"choices":[{"text":"a"}],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"text":"a"}]}',
        b'{"type":null,"choices":[]}',
        b'{"type":"message","content":[{"type":"text","text":"a"}]}',
        b'{"object":"response","output":[],"error":{"message":"boom"}}',
    ],
)
@pytest.mark.parametrize("task", [Task.CHAT, Task.GENERATE])
def test_an_answer_of_text(body: bytes, task: Task) -> None:
    assert answers(body, task)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","embeddings":[[0.1]],"total_duration":5,"prompt_eval_count":1}',
        b'{"model":"m","embeddings":[]}',
        b'{"embedding":[0.1]}',
        b'{"object":"list","data":[],"usage":{"prompt_tokens":1}}',
        b'{"data":[{"embedding":"AAAA"}]}',
    ],
)
def test_an_answer_of_vectors(body: bytes) -> None:
    assert answers(body, Task.EMBED)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'"<html>"',
        b'{"status":"ok"}',
        b'{"done":false}',
        b'{"done":"yes"}',
        b'{"done":false,"total_duration":5}',
        b'{"error":"boom"}',
        DEEP,
    ],
)
@pytest.mark.parametrize("task", [Task.CHAT, Task.GENERATE])
def test_what_is_no_answer_of_text(body: bytes, task: Task) -> None:
    assert not answers(body, task)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"null", b'{"status":"ok"}', b'{"done":true}', DEEP]
)
def test_what_is_no_answer_of_vectors(body: bytes) -> None:
    assert not answers(body, Task.EMBED)


SIGN_IN = b'{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=a&key=b"}'
NO_CLOUD = b'{"error":"ollama cloud is disabled: remote model is unavailable"}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":"invalid options"}'),
        (400, b'{"error":{"message":"[] is too short"}}'),
        (400, b'{"object":"error","message":"too long","code":400}'),
        (413, b'{"error":"too large"}'),
        (422, b'{"detail":[{"loc":["body"]}]}'),
        (402, b'{"error":"pay"}'),
        (401, SIGN_IN),
        (403, NO_CLOUD),
        (403, b'{"error":"this model needs a plan: https://ollama.com/upgrade"}'),
    ],
)
def test_what_an_engine_says_of_a_request(status: int, body: bytes) -> None:
    assert is_refusal(status, body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (204, b""),
        (201, b'{"error":"x"}'),
        (302, b""),
        (307, b'{"error":"x"}'),
        (400, b""),
        (400, b"<html>"),
        (400, b'"error"'),
        (400, b'{"error":null}'),
        (400, DEEP),
        (413, b'{"message":"too large"}'),
        (401, b'{"error":{"message":"Invalid API Key"}}'),
        (401, b'{"detail":"Not authenticated to the cloud"}'),
        (403, b""),
        (405, b'{"error":"method"}'),
        (407, b'{"error":"proxy"}'),
        (408, b'{"error":"late"}'),
    ],
)
def test_what_no_engine_says(status: int, body: bytes) -> None:
    assert not is_refusal(status, body)


def test_a_model_that_runs_in_the_cloud_may_be_refused_in_any_words() -> None:
    body = b'{"error":{"message":"unauthorized","type":"api_error"}}'
    assert is_refusal(401, body, is_cloud=True)
    assert not is_refusal(401, body)
    assert not is_refusal(401, b"<html>", is_cloud=True)


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b'{"model":"m","done":false}\n', NDJSON),
        (b'\n {"model":"m","done":false}\nnot looked at', NDJSON),
        (b'data: {"choices":[]}\n\n', SSE),
        (b'data:{"choices":[]}\r\n\r\n', SSE),
        (b'event: message_start\ndata: {"type":"message_start"}\n\n', SSE),
        (b"event: message_start\n", SSE),
        (b": loading\n\n", SSE),
        (b"retry: 5\n\n", SSE),
        (b"id: 1\n", SSE),
        (b"data: [DONE]\n\n", SSE),
    ],
)
def test_the_first_record(lines: bytes, framing: StreamFraming) -> None:
    first = first_record(lines, framing)
    assert first is not None
    assert first.error is None


@pytest.mark.parametrize(
    ("lines", "framing"),
    [(b'{ "error": "boom"}\n', NDJSON), (b'data: {"code":500,"error":{"message":"x"}}\n\n', SSE)],
)
def test_a_first_record_that_is_an_error(lines: bytes, framing: StreamFraming) -> None:
    first = first_record(lines, framing)
    assert first is not None
    assert first.error is not None


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"null\n", NDJSON),
        (b"{}\n", NDJSON),
        (b'{"x":1}\n', NDJSON),
        (b"<html>\n", NDJSON),
        (b"[1:2]\n", NDJSON),
        (DEEP + b"\n", NDJSON),
        (b"data: {nope\n\n", SSE),
        (b"data: {}\n\n", SSE),
        (b"data: null\n\n", SSE),
        (b"event: x\ndata: nope\n\n", SSE),
        (b"<html>\n", SSE),
        (b'{"done":false}\n', SSE),
    ],
)
def test_a_first_record_that_is_none(lines: bytes, framing: StreamFraming) -> None:
    assert first_record(lines, framing) is None
