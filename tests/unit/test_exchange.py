"""What a node is sent, and that a llama-server's caller is refused as Ollama refuses."""

import json

import pytest

from sollol.errors import InvalidBody, SollolError, UnsupportedByEngine
from sollol.gateway.body import Body
from sollol.gateway.call import Call
from sollol.gateway.exchange import Exchange, LocalAnswer, plan_exchange
from sollol.types import NO_DEFAULTS, Dialect, Engine, Model, ModelDefaults, NodeState, NodeView
from sollol.wire.bodies import error_response
from sollol.wire.kinds import (
    BODY_KINDS,
    CHAT,
    GENERATE,
    SHOW,
    V1_ANTHROPIC_MESSAGES,
    V1_CHAT,
    BodyKind,
)
from sollol.wire.peek import peek
from tests.contract.golden import Entry, make_answer, read_entries

KEY = "the model"
OLLAMAS_WORDS = [
    entry
    for entry in read_entries()
    if entry.method == "POST"
    and entry.answer.status == 400
    and entry.path in BODY_KINDS
    and BODY_KINDS[entry.path].dialect is Dialect.OLLAMA
    and not any(
        word in entry.answer.body for word in ("invalid model name", "is required", ":local")
    )
]
"""Refusals that have nothing to do with the name of the model."""


def plan(
    kind: BodyKind,
    body: bytes,
    engine: Engine,
    defaults: ModelDefaults = NO_DEFAULTS,
    content_type: bytes = b"application/json",
) -> Exchange | LocalAnswer:
    model = Model(KEY, "gemma.gguf", show={"details": {}})
    models = {KEY: model}
    node = NodeView("n", "http://n", engine, NodeState.HEALTHY, models=models, defaults=defaults)
    headers = [(b"accept", b"*/*"), (b"content-type", content_type)]
    call = Call("1", kind, kind.path, Body(body), peek(kind, body).model, KEY, headers)
    return plan_exchange(call, node, "secret")


@pytest.mark.parametrize("entry", OLLAMAS_WORDS, ids=lambda entry: entry.name)
def test_a_llama_server_refuses_in_ollamas_words(entry: Entry) -> None:
    kind = BODY_KINDS[entry.path]
    with pytest.raises(SollolError) as caught:
        plan(kind, entry.request, Engine.LLAMA_SERVER)
    status, content_type, body = error_response(kind.dialect, caught.value)
    headers = [("content-type", content_type.decode())]
    assert make_answer(status, headers, body.decode()) == entry.answer


@pytest.mark.parametrize(
    "kind", [kind for kind in BODY_KINDS.values() if kind.dialect is Dialect.OLLAMA]
)
def test_every_field_of_the_wrong_type_is_refused_as_without_a_node(kind: BodyKind) -> None:
    for name, go_type in kind.struct.items():
        for wrong, value in {"bool": "true", "object": "{}", "string": '"x"'}.items():
            if wrong in go_type.accepts:
                continue
            body = f'{{"model":"m","{name.upper()}":{value}}}'.encode()
            with pytest.raises(InvalidBody) as caught:
                plan(kind, body, Engine.LLAMA_SERVER)
            field = f"{kind.struct_name}.{name}"
            assert str(caught.value) == (
                f"json: cannot unmarshal {wrong} into Go struct field {field} of type {go_type.name}"
            )


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        (CHAT, Engine.OLLAMA),
        (SHOW, Engine.OLLAMA),
        (V1_CHAT, Engine.OLLAMA),
        (V1_CHAT, Engine.LLAMA_SERVER),
    ],
)
def test_what_the_node_speaks_itself_is_passed_on_unread(kind: BodyKind, engine: Engine) -> None:
    body = b'{"model":"m" , "OPTIONS":7, "tools":"x"}'
    planned = plan(kind, body, engine)
    assert isinstance(planned, Exchange)
    assert planned.translator is None
    request = planned.request
    assert (request.method, request.target, request.body) == ("POST", kind.path, body)
    assert sorted(request.headers) == [
        (b"accept", b"*/*"),
        (b"authorization", b"Bearer secret"),
        (b"content-type", b"application/json"),
    ]


def test_a_llama_server_is_sent_a_translation() -> None:
    planned = plan(GENERATE, b'{"model":"any name","prompt":"hi"}', Engine.LLAMA_SERVER)
    assert isinstance(planned, Exchange)
    assert planned.translator is not None
    assert planned.request.target == "/v1/chat/completions"
    assert isinstance(planned.request.body, bytes)
    assert json.loads(planned.request.body)["model"] == "gemma.gguf"


def test_what_a_llama_server_need_not_be_asked_is_answered_here() -> None:
    shown = plan(SHOW, b'{"name":"m"}', Engine.LLAMA_SERVER)
    assert shown == LocalAnswer(b'{"details":{}}')
    unloaded = plan(GENERATE, b'{"model":"m","keep_alive":0}', Engine.LLAMA_SERVER)
    assert isinstance(unloaded, LocalAnswer)
    assert b'"done_reason":"unload"' in unloaded.body


def test_what_only_ollama_can_do_is_refused() -> None:
    with pytest.raises(UnsupportedByEngine):
        plan(GENERATE, b'{"model":"m","prompt":"x","context":[1]}', Engine.LLAMA_SERVER)


def test_a_llama_server_is_told_what_the_model_says() -> None:
    defaults = ModelDefaults("Be brief.")
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}] , "max_tokens":1}'
    for kind in (CHAT, V1_CHAT, V1_ANTHROPIC_MESSAGES):
        planned = plan(kind, body, Engine.LLAMA_SERVER, defaults)
        assert isinstance(planned, Exchange)
        assert b"Be brief." in request_body(planned)
        unchanged = plan(kind, body, Engine.OLLAMA, defaults)
        assert isinstance(unchanged, Exchange)
        assert unchanged.request.body == body


def test_a_request_that_says_all_itself_stays_as_it_is() -> None:
    body = b'{"model":"m" , "messages":[{"role":"system","content":"x"}]}'
    planned = plan(V1_CHAT, body, Engine.LLAMA_SERVER, ModelDefaults("Be brief."))
    assert isinstance(planned, Exchange)
    assert planned.request.body == body


def request_body(planned: Exchange) -> bytes:
    assert isinstance(planned.request.body, bytes)
    return planned.request.body


@pytest.mark.parametrize("kind", [CHAT, V1_CHAT])
def test_a_llama_server_is_told_that_a_body_is_json(kind: BodyKind) -> None:
    """curl says that it is a form, of which a llama-server takes a megabyte."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    for engine in (Engine.LLAMA_SERVER, Engine.OPENAI, Engine.OLLAMA):
        if engine is Engine.OPENAI and kind is CHAT:
            continue
        said = plan(kind, body, engine, content_type=b"application/x-www-form-urlencoded")
        assert isinstance(said, Exchange)
        (told,) = (value for name, value in said.request.headers if name == b"content-type")
        as_it_came = told == b"application/x-www-form-urlencoded"
        assert as_it_came is (engine is Engine.OLLAMA)
