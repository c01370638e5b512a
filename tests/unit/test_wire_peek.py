"""What routing reads of a body, what it refuses, and how errors are written."""

import json

import pytest

from sollol.errors import InvalidBody, InvalidRequest, ModelNotFound, QueueFull, SollolError
from sollol.types import Dialect
from sollol.wire import bodies, kinds
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.kinds import BodyKind
from sollol.wire.peek import Peek, peek

IMAGE = "iVBORw0KGgo="


def refusal(kind: BodyKind, body: bytes) -> SollolError:
    with pytest.raises(SollolError) as caught:
        check_request(kind, peek(kind, body))
    return caught.value


def chat(**fields: object) -> Peek:
    return peek(kinds.CHAT, json.dumps({"model": "m", **fields}).encode())


def test_a_chat_is_read() -> None:
    body = b'{"model":"M:7b","messages":[{"role":"user","content":"hi"}],"options":{"num_ctx":5}}'
    seen = peek(kinds.CHAT, body)
    assert seen.model == "M:7b"
    assert seen.stream
    assert not seen.keep_alive_zero
    assert not seen.is_load_only
    assert seen.fields.value("options") == {"num_ctx": 5}
    assert seen.fields.value("think") is None


@pytest.mark.parametrize("kind", kinds.BODY_KINDS.values(), ids=lambda kind: kind.path)
def test_only_ollamas_own_text_routes_stream_by_default(kind: BodyKind) -> None:
    assert peek(kind, b"{}").stream == (kind in (kinds.CHAT, kinds.GENERATE))


@pytest.mark.parametrize(
    ("kind", "stream", "expected"),
    [
        (kinds.CHAT, b"true", True),
        (kinds.CHAT, b"false", False),
        (kinds.CHAT, b"null", True),
        (kinds.CHAT, b'false,"STREAM":null', True),
        (kinds.V1_CHAT, b"true", True),
        (kinds.V1_CHAT, b"null", False),
        (kinds.V1_CHAT, b'true,"stream":null', True),
        (kinds.EMBED, b"true", False),
        (kinds.V1_EMBEDDINGS, b"7", False),
    ],
)
def test_stream(kind: BodyKind, stream: bytes, expected: bool) -> None:
    assert peek(kind, b'{"model":"m","stream":' + stream + b"}").stream is expected


@pytest.mark.parametrize(
    ("keep_alive", "expected"),
    [
        (0, True), (0.0, True), (1e-10, True), ("0", True), ("0s", True), ("0h0m", True), ("-0s", True),
        (None, False), (1, False), (-1, False), ("5m", False), ("-1s", False), ("1ns", False),
        ("0" * 500 + "s", True),
    ],
)  # fmt: skip
def test_keep_alive_zero(keep_alive: object, expected: bool) -> None:
    assert chat(keep_alive=keep_alive).keep_alive_zero is expected


@pytest.mark.parametrize(
    ("keep_alive", "message"),
    [
        ('"abc"', 'time: invalid duration "abc"'),
        ('"5"', 'time: missing unit in duration "5"'),
        ('""', 'time: invalid duration ""'),
        ("{}", "Unsupported type: 'map[string]interface {}'"),
        ("[1]", "Unsupported type: '[]interface {}'"),
        ("true", "Unsupported type: 'bool'"),
        ("1e999", "json: cannot unmarshal number 1e999 into Go value of type float64"),
    ],
)
def test_a_wrong_keep_alive_is_refused_in_ollamas_words(keep_alive: str, message: str) -> None:
    body = f'{{"model":1,"keep_alive":{keep_alive}}}'.encode()
    with pytest.raises(InvalidBody) as caught:
        peek(kinds.CHAT, body)
    assert str(caught.value) == message
    assert peek(kinds.V1_CHAT, body.replace(b"1,", b'"m",')).keep_alive_zero is False


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (kinds.CHAT, "", True),
        (kinds.CHAT, '"messages":[ ]', True),
        (kinds.CHAT, '"messages":null', True),
        (kinds.CHAT, '"messages":[{}]', False),
        (kinds.GENERATE, "", True),
        (kinds.GENERATE, '"prompt":""', True),
        (kinds.GENERATE, '"prompt":null', True),
        (kinds.GENERATE, '"prompt":"","prompt":null', True),
        (kinds.GENERATE, '"prompt":"a","prompt":null', False),
        (kinds.GENERATE, '"prompt":"a"', False),
        (kinds.GENERATE, f'"images":["{IMAGE}"]', True),
        (kinds.EMBED, '"input":""', True),
        (kinds.EMBED, '"input":[]', True),
        (kinds.EMBED, '"input":null', True),
        (kinds.EMBED, '"input":["a"]', False),
        (kinds.EMBED, '"input":"a"', False),
        (kinds.EMBED, '"input":7', False),
        (kinds.EMBEDDINGS, '"prompt":""', True),
        (kinds.SHOW, "", False),
        (kinds.V1_CHAT, "", False),
        (kinds.V1_COMPLETIONS, '"prompt":""', True),
        (kinds.V1_EMBEDDINGS, '"input":""', False),
    ],
)
def test_a_request_without_content_only_loads(kind: BodyKind, fields: str, expected: bool) -> None:
    body = '{"model":"m"' + ("," if fields else "") + fields + "}"
    assert peek(kind, body.encode()).is_load_only is expected


@pytest.mark.parametrize(
    ("kind", "body", "model"),
    [
        (kinds.CHAT, b"{}", ""),
        (kinds.CHAT, b'{"model":null}', ""),
        (kinds.CHAT, b'{"model":"a","model":null}', "a"),
        (kinds.CHAT, b'{"model":"a\xff"}', "a\ufffd"),
        (kinds.CHAT, b'{"name":"a"}', ""),
        (kinds.SHOW, b'{"name":"a"}', "a"),
        (kinds.SHOW, b'{"name":"a","model":"b"}', "b"),
        (kinds.SHOW, b'{"name":"a","model":""}', "a"),
    ],
)
def test_the_model_is_as_the_caller_wrote_it(kind: BodyKind, body: bytes, model: str) -> None:
    assert peek(kind, body).model == model


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (kinds.CHAT, '{"model":[]}', "array into Go struct field ChatRequest.model of type string"),
        (kinds.CHAT, '{"stream":1}', "number into Go struct field ChatRequest.stream of type bool"),
        (kinds.CHAT, '{"messages":{}}',
         "object into Go struct field ChatRequest.messages of type []api.Message"),
        (kinds.EMBEDDINGS, '{"prompt":true}',
         "bool into Go struct field EmbeddingRequest.prompt of type string"),
        (kinds.V1_COMPLETIONS, '{"prompt":["a"]}',
         "array into Go struct field CompletionRequest.prompt of type string"),
        (kinds.GENERATE, '{"options":[],"model":1}',  # Go tells the first
         "array into Go struct field GenerateRequest.options of type map[string]interface {}"),
        (kinds.GENERATE, '{"model":1,"model":"m","stream":"x"}',
         "number into Go struct field GenerateRequest.model of type string"),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_refused(kind: BodyKind, body: str, message: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        peek(kind, body.encode())
    assert str(caught.value) == f"json: cannot unmarshal {message}"


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (kinds.GENERATE, '"context":[1,"a"]',
         "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int"),
        (kinds.GENERATE, '"context":[1.5]',
         "json: cannot unmarshal number 1.5 into Go struct field GenerateRequest.context of type int"),
        (kinds.CHAT, '"top_logprobs":9223372036854775808',
         "json: cannot unmarshal number 9223372036854775808 into Go struct field"
         " ChatRequest.top_logprobs of type int"),
        (kinds.GENERATE, f'"images":["{IMAGE}",null,"QQ="]', "illegal base64 data at input byte 3"),
        (kinds.GENERATE, '"images":[{}]',
         "json: cannot unmarshal object into Go struct field GenerateRequest.images of type"
         " api.ImageData"),
        (kinds.GENERATE, '"images":[[1,300]]',
         "json: cannot unmarshal number 300 into Go struct field GenerateRequest.images of type uint8"),
        (kinds.CHAT, '"tools":["x"]',
         "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tool"),
        (kinds.GENERATE, '"raw":1,"think":"x"',
         'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)'),
        (kinds.CHAT, '"top_logprobs":-1', "top_logprobs must be between 0 and 20"),
        (kinds.V1_COMPLETIONS, '"logprobs":21', "top_logprobs must be between 0 and 20"),
        (kinds.V1_CHAT, '"messages":[]', "[] is too short - 'messages'"),
        (kinds.V1_CHAT, '"messages":[{}],"reasoning":{"effort":"x"}',
         'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh",'
         ' "ultra", "max", or "none")'),
        (kinds.V1_EMBEDDINGS, '"input":[]', "invalid input"),
        (kinds.EMBED, '"input":0', "invalid input type"),
        (kinds.EMBED, '"input":["a",{}]', "invalid input type"),
        (kinds.V1_EMBEDDINGS, '"input":"a","encoding_format":"hex"',
         "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64']."),
    ],
)  # fmt: skip
def test_a_request_that_no_node_gets_is_checked_whole(
    kind: BodyKind, fields: str, message: str
) -> None:
    error = refusal(kind, f'{{"model":"m",{fields}}}'.encode())
    assert (error.status, str(error)) == (400, message)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ('["x"]', "string into Go struct field ChatRequest.messages of type api.Alias"),
        ('[{"role":1}]', "number into Go struct field ChatRequest.messages.role of type string"),
        ('[{},{"CONTENT":[],"role":1}]',
         "array into Go struct field ChatRequest.messages.content of type string"),
        ('[{"images":"x"}]',
         "string into Go struct field ChatRequest.messages.images of type []api.ImageData"),
        ('[{"images":[[-1]]}]',
         "number -1 into Go struct field ChatRequest.messages.images of type uint8"),
        ('[{"tool_calls":{}}]',
         "object into Go struct field ChatRequest.messages.tool_calls of type []api.ToolCall"),
        ('[{"tool_calls":["f"]}]',
         "string into Go struct field ChatRequest.messages.tool_calls of type api.ToolCall"),
        ('[{"tool_calls":[{"function":"f"}]}]',
         "string into Go struct field ChatRequest.messages.tool_calls.function of type"
         " api.ToolCallFunction"),
        ('[{"tool_calls":[{"function":{"index":1.5}}]}]',
         "number 1.5 into Go struct field ChatRequest.messages.tool_calls.function.index of type int"),
    ],
)  # fmt: skip
def test_a_wrong_message_is_refused_in_gos_words(messages: str, message: str) -> None:
    error = refusal(kinds.CHAT, f'{{"model":"m","messages":{messages}}}'.encode())
    assert (error.status, str(error)) == (400, f"json: cannot unmarshal {message}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"stream":null,"options":1,"messages":[{"images":["!!"]}]',
         "illegal base64 data at input byte 0"),
        ('"messages":[{"content":1,"tool_calls":[{"function":{"arguments":1}}]}]',
         "Value looks like object, but can't find closing '}' symbol"),
        ('"messages":[1],"think":3',
         "json: cannot unmarshal number into Go struct field ChatRequest.messages of type api.Alias"),
    ],
)  # fmt: skip
def test_what_decodes_itself_ends_the_decoding(fields: str, message: str) -> None:
    assert str(refusal(kinds.CHAT, f'{{"model":"m",{fields}}}'.encode())) == message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (
            kinds.CHAT,
            '{"model":"m","messages":[null,{},{"role":null,"tool_calls":[null,{}],"x":1}]}',
        ),
        (kinds.CHAT, '{"model":"m","messages":[{"tool_calls":[{"function":{"arguments":null}}]}]}'),
        (kinds.CHAT, '{"model":"m","think":"high","top_logprobs":20,"keep_alive":-1}'),
        (kinds.CHAT, '{"model":"m","think":true,"tools":null,"unknown":[{}]}'),
        (kinds.GENERATE, f'{{"model":"m","images":["{IMAGE}",null,[1,2]],"context":[1,-2,null]}}'),
        (kinds.EMBED, '{"model":"m","":50}'),
        (kinds.V1_CHAT, '{"model":"m","messages":[{}],"reasoning_effort":"none","max_tokens":5}'),
        (kinds.V1_COMPLETIONS, '{"model":"m","prompt":"x","logprobs":-1}'),
        (kinds.V1_EMBEDDINGS, '{"model":"m","input":["a"],"encoding_format":"Base64"}'),
    ],
)
def test_a_request_that_ollama_takes_passes(kind: BodyKind, body: str) -> None:
    check_request(kind, peek(kind, body.encode()))


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (kinds.CHAT, 400, "model is required"),
        (kinds.GENERATE, 404, "model ' ' not found"),
        (kinds.EMBED, 404, "model ' ' not found"),
        (kinds.EMBEDDINGS, 400, "model is required"),
        (kinds.SHOW, 400, "model is required"),
        (kinds.V1_COMPLETIONS, 404, "model ' ' not found"),
    ],
)
def test_a_blank_model_is_none(kind: BodyKind, status: int, message: str) -> None:
    error = refusal(kind, b'{"model":" "}')
    assert (error.status, str(error)) == (status, message)
    assert not isinstance(error, InvalidBody)


def test_a_model_that_is_nowhere_is_told_in_the_words_of_the_route() -> None:
    assert str(model_not_found(kinds.CHAT, "nope")) == "model 'nope' not found"
    assert str(model_not_found(kinds.SHOW, "nope")) == "model 'nope:latest' not found"
    embed = model_not_found(kinds.EMBED, 'no"pe')
    assert isinstance(embed, ModelNotFound)
    assert str(embed) == 'model "no\\"pe" not found, try pulling it first'


def test_error_bodies_are_escaped_as_go_escapes_them() -> None:
    assert bodies.ollama_error('<a> & "b"\n\x01\x08é\u2028\ud800') == (
        rb'{"error":"\u003ca\u003e \u0026 \"b\"\n\u0001\b' + "é".encode() + rb'\u2028\ufffd"}'
    )
    assert bodies.openai_error(503, "busy", "queue_full") == (
        b'{"error":{"message":"busy","type":"api_error","param":null,"code":"queue_full"}}'
    )


def test_a_stream_that_failed_ends_in_an_error_of_its_dialect() -> None:
    assert bodies.ollama_error_record("cut") == b'{"error":"cut"}\n'
    assert bodies.openai_error_event("cut") == (
        b'\ndata: {"error":{"message":"cut","type":"api_error","param":null,"code":null}}\n\n'
    )
    assert bodies.responses_error_event("cut") == (
        b"\nevent: error\n"
        b'data: {"type":"error","code":"server_error","message":"cut","param":null}\n\n'
    )
    assert bodies.anthropic_error_event("cut").startswith(
        b"\nevent: error\n"
        b'data: {"type":"error","error":{"type":"api_error","message":"cut"},"request_id":"req_'
    )


@pytest.mark.parametrize(
    ("dialect", "error", "status", "content_type", "end"),
    [
        (Dialect.OLLAMA, QueueFull("x"), 503, bodies.JSON_UTF8, b'"x"}'),
        (Dialect.OLLAMA, InvalidBody("x"), 400, bodies.JSON_UTF8, b'"x"}'),
        (Dialect.OPENAI, InvalidBody("x"), 400, bodies.JSON_UTF8, b"null}}"),
        (Dialect.OPENAI, InvalidRequest("x"), 400, bodies.JSON, b"null}}\n"),
        (Dialect.OPENAI, ModelNotFound("x"), 404, bodies.JSON, b"null}}\n"),
    ],
)
def test_an_error_is_answered_in_its_dialect(
    dialect: Dialect, error: SollolError, status: int, content_type: bytes, end: bytes
) -> None:
    answer = bodies.error_response(dialect, error)
    assert answer[:2] == (status, content_type)
    assert answer[2].endswith(end)
