"""The simulated node's ``/v1`` routes beside OpenAI's: form, endings, faults and versions."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault, FaultKind
from sollol.bench.sim.node import SimNode
from tests.raw_http import RawAnswer, render, talk

pytestmark = pytest.mark.sim

ABLE = ("completion", "tools", "vision", "thinking", "audio", "decision", "image")
MODELS = (SimModel("a"), SimModel("able", capabilities=ABLE))
GETS = ("/v1/models", "/v1/models/a", "/api/status", "/api/experimental/model-recommendations")
UNCACHED = {"Cache-Control": "no-cache", "Connection": "keep-alive"}
SAID: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
MESSAGES: dict[str, Any] = {"model": "a", "max_tokens": 3, "messages": SAID}
RESPONSES: dict[str, Any] = {"model": "a", "max_output_tokens": 3, "input": "hi"}
STREAMS = {"/v1/messages": MESSAGES, "/v1/responses": RESPONSES}
MESSAGE_EVENTS = [
    "message_start",
    "content_block_start",
    *["content_block_delta"] * 3,
    "content_block_stop",
    "message_delta",
    "message_stop",
]
RESPONSE_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 3,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
EVENTS = {"/v1/messages": MESSAGE_EVENTS, "/v1/responses": RESPONSE_EVENTS}


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=MODELS, version="0.0.0")) as made:
        yield made


async def post(node: SimNode, path: str, body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=node.url) as client:
        return await client.post(path, json=body)


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the data of server-sent events, each of which is named for its type."""
    found = []
    for event in text.split("\n\n"):
        if event:
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_tells_each_step_and_is_not_to_be_cached(node: SimNode, path: str) -> None:
    answer = await post(node, path, STREAMS[path] | {"stream": True})
    assert {name: answer.headers[name] for name in UNCACHED} == UNCACHED
    assert answer.headers["content-type"] == "text/event-stream"
    events = events_of(answer.text)
    assert [event["type"] for event in events] == EVENTS[path]
    if path == "/v1/responses":
        assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("path", STREAMS)
async def test_a_refused_stream_is_not_to_be_cached_either(node: SimNode, path: str) -> None:
    refused = await post(node, path, STREAMS[path] | {"model": "nope", "stream": True})
    assert {name: refused.headers.get(name) for name in UNCACHED} == UNCACHED
    assert (refused.status_code, refused.headers["content-type"]) == (404, "application/json")
    whole = await post(node, path, STREAMS[path] | {"model": "nope"})
    assert "cache-control" not in whole.headers


async def test_all_apis_say_the_same(node: SimNode) -> None:
    chat = {"model": "a", "messages": SAID, "stream": False, "options": {"num_predict": 3}}
    text = (await post(node, "/api/chat", chat)).json()["message"]["content"]
    message = (await post(node, "/v1/messages", MESSAGES)).json()
    assert message["content"] == [{"type": "text", "text": text}]
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 3)
    response = (await post(node, "/v1/responses", RESPONSES)).json()
    assert response["output"][0]["content"][0]["text"] == text
    assert (response["status"], response["usage"]["output_tokens"]) == ("completed", 3)


async def test_an_answer_may_end_before_its_limit(node: SimNode) -> None:
    message = (await post(node, "/v1/messages", MESSAGES | {"max_tokens": 4096})).json()
    assert message["stop_reason"] == "end_turn"
    assert 16 <= message["usage"]["output_tokens"] <= 128


async def test_blocks_of_content_become_messages(node: SimNode) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "aGk=", "media_type": "x"}}
    call = {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "sky"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "b"}]}
    body = MESSAGES | {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}, image]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
    }
    chat = {
        "model": "a",
        "stream": False,
        "options": {"num_predict": 3},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi", "images": ["aGk="]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "look", "arguments": {"at": "sky"}}}],
            },
            {"role": "tool", "content": "b"},
        ],
    }
    said = (await post(node, "/v1/messages", body)).json()["content"][0]["text"]
    assert said == (await post(node, "/api/chat", chat)).json()["message"]["content"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image"}, "invalid image source"),
        (
            {"type": "image", "source": {"type": "url", "url": "http://x"}},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"type": "image", "source": {"type": "base64", "data": "?"}},
            "invalid base64 image data: illegal base64 data at input byte 0",
        ),
        ({"type": "tool_use", "name": "x"}, "tool_use block missing required 'id' field"),
        ({"type": "tool_use", "id": "x"}, "tool_use block missing required 'name' field"),
    ],
)
async def test_blocks_that_ollama_refuses(
    node: SimNode, block: dict[str, Any], message: str
) -> None:
    body = MESSAGES | {"messages": [{"role": "user", "content": [block]}]}
    answer = await post(node, "/v1/messages", body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"content": "x"}, "input[0]: input item missing required 'type' field"),
        (
            {"role": "user", "content": [{"type": "zzz"}]},
            "input[0]: content[0]: unknown content type: zzz",
        ),
        (
            {"role": "user", "content": [{"type": "input_file"}]},
            "file inputs are not currently supported",
        ),
    ],
)
async def test_items_that_ollama_refuses(node: SimNode, item: dict[str, Any], message: str) -> None:
    answer = await post(node, "/v1/responses", RESPONSES | {"input": [item]})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("error_record_after_n", "eof"),
        ("end_without_done_after_n", "eof"),
        ("cut_after_n_records", "eof"),
        ("hang_after_n_records", "open"),
    ],
)
async def test_a_stream_that_fails_just_ends(
    node: SimNode, path: str, kind: FaultKind, ending: str
) -> None:
    node.set_fault(Fault(kind, records=2))
    answer = await stream(node, path)
    assert answer.ending == ending
    assert (answer.chunks[-1:] == [b""]) == (
        kind in ("error_record_after_n", "end_without_done_after_n")
    )
    events = events_of(b"".join(answer.chunks).decode())
    expected = EVENTS[path]
    assert [event["type"] for event in events] == expected[: len(expected) - len(_after(expected))]


def _after(expected: list[str]) -> list[str]:
    """Return what comes after the second piece of text."""
    delta = next(kind for kind in expected if kind.endswith("delta"))
    return expected[expected.index(delta) + 2 :]


async def stream(node: SimNode, path: str) -> RawAnswer:
    body = json.dumps(STREAMS[path] | {"stream": True}).encode()
    return await talk(node.port, render("POST", path, body, {"Connection": "close"}), quiet_s=0.2)


async def test_an_error_before_the_first_record_has_the_form_of_its_api(node: SimNode) -> None:
    node.set_fault(Fault("error_record_after_n", records=0, message="out of memory"))
    failed = await post(node, "/v1/messages", MESSAGES | {"stream": True})
    assert failed.status_code == 500
    assert failed.json()["error"] == {"type": "api_error", "message": "out of memory"}
    node.clear_faults()
    node.set_fault(Fault("status", status=503))
    busy = await post(node, "/v1/messages", MESSAGES)
    assert (busy.status_code, busy.json()["error"]["type"]) == (503, "overloaded_error")
    busy = await post(node, "/v1/responses", RESPONSES)
    assert (busy.status_code, busy.json()["error"]["type"]) == (503, "api_error")


async def test_the_refusal_of_a_cloud_model_keeps_the_form_of_api(node: SimNode) -> None:
    answer = await post(node, "/v1/messages", MESSAGES | {"model": "nope:cloud"})
    assert answer.status_code == 403
    reason = "ollama cloud is disabled: remote model is unavailable"
    assert answer.json() == {"error": reason}
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_transcriptions(node: SimNode) -> None:
    async with httpx.AsyncClient(base_url=f"{node.url}/v1/audio") as client:

        async def ask(**fields: str) -> httpx.Response:
            files = {"file": ("a.wav", b"RIFF\r\n--", "audio/wav")}
            return await client.post("transcriptions", data=fields, files=files)

        heard = await ask(model="able")
        assert heard.headers["content-type"] == "application/json"
        plain = await ask(model="able", response_format="text")
        assert (plain.headers["content-type"], plain.text) == ("text/plain", heard.json()["text"])
        assert (await ask(model="nope")).json()["error"]["message"] == "model 'nope' not found"
        assert (await ask(model="a")).status_code == 400
        assert (await ask()).json()["error"]["message"] == "model is required"
    assert node.requests[0].model == "able"


async def test_images_are_made_by_nodes_that_still_do() -> None:
    body = {"model": "able", "prompt": "a sunset"}
    async with SimNode(SimConfig(models=MODELS, version="0.32.5")) as node:
        made = await post(node, "/v1/images/generations", body)
        assert base64.b64decode(made.json()["data"][0]["b64_json"])
        unknown = await post(node, "/v1/images/generations", body | {"model": "nope"})
        assert unknown.status_code == 404
        for field in body:
            refused = await post(node, "/v1/images/generations", body | {field: ""})
            assert refused.json()["error"]["message"] == f"{field} is required"


async def test_systemone(node: SimNode) -> None:
    questions = {
        "fit": {"type": "choice", "instructions": "x", "criteria": {"a": None, "b": "B"}},
        "good": {"type": "score", "instructions": "x", "criteria": ["bad", "good"]},
        "true": {"type": "noul", "instructions": "x"},
    }
    body: dict[str, Any] = {"model": "able", "state": {"x": 1}, "questions": questions}
    answers = (await post(node, "/v1/systemone", body)).json()["answers"]
    assert answers["fit"]["choice"] in ("a", "b")
    assert answers["good"]["legend"] == {"0": "bad", "1": "good"}
    assert 0 <= answers["true"]["noul"] <= 1
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"model": "nope"}, 404, "model 'nope' not found"),
        ({"state": ""}, 400, "state must not be empty"),
        ({"state": "x" * 70_000}, 413, "request body must not exceed 64 KiB"),
        ({"questions": {"x": {"type": "y"}}}, 400, "invalid question"),
    ]
    for changed, status, message in refusals:
        refused = await post(node, "/v1/systemone", body | changed)
        assert (refused.status_code, refused.json()) == (status, {"error": message})


@pytest.mark.parametrize(
    ("path", "before", "since", "after"),
    [
        ("/v1/models", "0.1.48", "0.2.0", None),
        ("/v1/models/a", "0.1.48", "0.2.0", None),
        ("/api/embed", "0.2.5", "0.2.6", None),
        ("/v1/responses", "0.13.2", "0.13.3-rc1", None),
        ("/v1/messages", "0.12.0", "0.14.0", None),
        ("/v1/images/generations", "0.14.2", "0.14.3", "0.33.0"),
        ("/v1/images/edits", "0.14.3", "0.15.0", "0.32.6"),
        ("/api/me", "0.11.11", "0.12.0", None),
        ("/api/status", "0.16.1", "0.16.2", None),
        ("/api/experimental/web_search", "0.17.7", "0.18.0", None),
        ("/api/experimental/model-recommendations", "0.22.0", "0.22.1", None),
        ("/v1/audio/transcriptions", "0.19.9", "0.20.0", None),
        ("/v1/systemone", "0.34.1", "0.35.0", None),
    ],
)
async def test_a_node_has_the_routes_of_its_version(
    path: str, before: str, since: str, after: str | None
) -> None:
    method = "GET" if path in GETS else "POST"
    for version, is_there in ((before, False), (since, True), (after, False)):
        if version is None:
            continue
        async with SimNode(SimConfig(models=MODELS, version=version)) as node:
            async with httpx.AsyncClient(base_url=node.url) as client:
                answer = await client.request(method, path)
        is_unknown = (answer.status_code, answer.text) == (404, "404 page not found")
        assert is_unknown is not is_there, version
