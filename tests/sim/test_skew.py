"""Nodes of different age and with different models: whoever can answer is found."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest

from tests.gateways import running_gateway, wait_for
from tests.ollama_script import NOT_FOUND, ollama_script, plain, sse
from tests.one_model import port_of
from tests.raw_http import render

pytestmark = pytest.mark.sim

ANSWER = b'{"done":true,"content":[]}'
"""As far as anybody looks, of each API."""
OK = plain(200, "application/json", ANSWER)
NO_MODEL = plain(404, "application/json; charset=utf-8", b'{"error":"model \'m\' not found"}')
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "x"}],
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as made:
        yield made


async def test_a_route_we_do_not_know_goes_to_a_node_that_has_it(client: httpx.AsyncClient) -> None:
    async with (
        ollama_script() as old,
        ollama_script({"/v1/systemone": OK}) as new,
        running_gateway(old.url, new.url) as running,
    ):
        for _ in range(8):
            answer = await client.post(f"{running.url}/v1/systemone?a=%20b", json={"model": "m"})
            assert (answer.status_code, answer.content) == (200, ANSWER)
        assert len(old.seen) <= 1  # it said that it does not have it, and was not asked again
        assert {target for target, _ in new.seen} == {b"/v1/systemone?a=%20b"}


@pytest.mark.parametrize("body", [b"", b"{bad", b"[]", b"{}", b'{"model":""}', b'{"model":"nope"}'])
async def test_a_route_that_nobody_has_is_not_found(client: httpx.AsyncClient, body: bytes) -> None:
    async with ollama_script() as node, running_gateway(node.url) as running:
        for path in ("/api/nope", "/v1/nope", "/v1/messages/count_tokens", "/nope"):
            answer = await client.post(running.url + path, content=body)
            assert (answer.status_code, answer.content) == (404, NOT_FOUND)
            assert answer.headers["content-type"] == "text/plain"
        assert node.seen == []


async def test_a_route_that_only_the_nodes_could_have_is_asked_of_each_once(
    client: httpx.AsyncClient,
) -> None:
    async with ollama_script() as one, ollama_script() as two:
        async with running_gateway(one.url, two.url) as running:
            for _ in range(3):
                answer = await client.post(f"{running.url}/api/later", json={"model": "m"})
                assert (answer.status_code, answer.content) == (404, NOT_FOUND)
                assert answer.headers["content-type"] == "text/plain"
        assert (len(one.seen), len(two.seen)) == (1, 1)


async def test_old_nodes_are_left_out(client: httpx.AsyncClient) -> None:
    answers = {"/v1/messages": OK, "/v1/responses": OK}
    async with (
        ollama_script(answers, version="0.13.3") as old,
        ollama_script(answers, version="0.14.0") as new,
        running_gateway(old.url, new.url) as running,
    ):
        for _ in range(6):
            assert (await client.post(f"{running.url}/v1/messages", json=MESSAGES)).is_success
        assert (len(old.seen), len(new.seen)) == (0, 6)


async def test_nodes_that_are_all_too_old_are_named_as_the_reason(
    client: httpx.AsyncClient,
) -> None:
    async with (
        ollama_script(version="0.12.0") as node,
        running_gateway(node.url) as running,
    ):
        answer = await client.post(f"{running.url}/v1/messages", json=MESSAGES)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "not_found_error"
        assert "needs Ollama 0.14.0 or newer" in answer.json()["error"]["message"]
        images = await client.post(f"{running.url}/v1/images/generations", json={"model": "m"})
        assert (images.status_code, images.content) == (404, NOT_FOUND)
        assert node.seen == []


async def test_a_model_that_was_deleted_on_a_node_is_found_on_another(
    client: httpx.AsyncClient,
) -> None:
    async with (
        ollama_script({"/api/chat": NO_MODEL}) as without,
        ollama_script({"/api/chat": OK}) as having,
        running_gateway(without.url, having.url, probe={"interval_s": 60}) as running,
    ):
        for _ in range(8):
            answer = await client.post(f"{running.url}/api/chat", json={"model": "m"})
            assert (answer.status_code, answer.content) == (200, ANSWER)
        assert len(without.seen) <= 1
        assert running.in_flight == 0


async def test_the_nodes_own_words_are_passed_on_when_no_other_has_it(
    client: httpx.AsyncClient,
) -> None:
    async with ollama_script({"/api/show": NO_MODEL}) as node, running_gateway(node.url) as running:
        answer = await client.post(f"{running.url}/api/show", json={"model": "m"})
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'm' not found"})
        await wait_for(lambda: "m" in str(running.gateway.registry.views()[0].models))


STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'
DELTA = b'event: x\ndata: {"type":"x"}\n\n'


@pytest.mark.parametrize(("path", "last"), [("/v1/messages", STOP), ("/v1/responses", COMPLETED)])
async def test_a_stream_of_events_ends_as_it_should(
    client: httpx.AsyncClient, path: str, last: bytes
) -> None:
    answers = {path: sse(DELTA, last)}
    async with ollama_script(answers) as node, running_gateway(node.url) as running:
        answer = await client.post(running.url + path, json=MESSAGES | {"stream": True})
        assert answer.content == DELTA + last
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/api/chat"])
async def test_a_client_that_leaves_at_the_last_record_has_its_answer(path: str) -> None:
    done = b'{"model":"m","done":true}\n'
    last = {"/v1/messages": STOP, "/v1/responses": COMPLETED}.get(path, done)
    stream = sse(last, end=b"")  # the node keeps the body open
    if path == "/api/chat":
        stream = stream.replace(b"text/event-stream", b"application/x-ndjson")
    async with (
        ollama_script({path: stream}, hold=True) as node,
        running_gateway(node.url) as running,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(render("POST", path, json.dumps(MESSAGES | {"stream": True}).encode()))
        await reader.readuntil(last[-10:])
        writer.close()
        await wait_for(lambda: running.in_flight == 0)
        metrics = generate_latest(running.gateway.metrics.registry).decode()
        assert 'outcome="ok"' in metrics
        assert "client_disconnected" not in metrics


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error"'),
        ("/v1/responses", b'event: error\ndata: {"type":"error","code":"server_error"'),
    ],
)
async def test_a_stream_of_events_that_is_cut_ends_in_an_error(
    client: httpx.AsyncClient, path: str, error: bytes, end: bytes
) -> None:
    answers = {path: sse(DELTA, end=end)}
    async with ollama_script(answers) as node, running_gateway(node.url) as running:
        answer = await client.post(running.url + path, json=MESSAGES | {"stream": True})
        assert answer.content.startswith(DELTA)
        assert error in answer.content


async def test_a_form_is_routed_by_the_model_in_it(client: httpx.AsyncClient) -> None:
    path = "/v1/audio/transcriptions"
    async with ollama_script({path: OK}) as node, running_gateway(node.url) as running:
        files = {"file": ("a.wav", b"\0" * 100_000)}
        answer = await client.post(running.url + path, data={"model": "m"}, files=files)
        assert answer.content == ANSWER
        assert b"\0" * 100_000 in node.seen[0][1]
        unknown = await client.post(running.url + path, data={"model": "nope"}, files=files)
        assert unknown.status_code == 404


@pytest.mark.parametrize(
    ("framing", "stream"),
    [
        (b"application/x-ndjson", b'{"status":"working"}\n{"status":"success"}\n'),
        (b"text/event-stream", b'data: {"type":"speech.audio.done"}\n\n'),
    ],
)
async def test_a_stream_of_a_route_we_do_not_know_ends_as_it_likes(
    client: httpx.AsyncClient, framing: bytes, stream: bytes
) -> None:
    answer = sse(stream).replace(b"text/event-stream", framing)
    cut = sse(stream, end=b"").replace(b"text/event-stream", framing)
    answers = {"/api/later": answer, "/api/cut": cut}
    async with ollama_script(answers) as node, running_gateway(node.url) as running:
        whole = await client.post(f"{running.url}/api/later", json={"model": "m"})
        assert (whole.status_code, whole.content) == (200, stream)
        broken = await client.post(f"{running.url}/api/cut", json={"model": "m"})
        assert b'{"error":' in broken.content


async def test_a_route_we_do_not_know_does_not_tell_that_a_model_is_gone(
    client: httpx.AsyncClient,
) -> None:
    missing = plain(404, "application/json", b'{"error":"no such file"}')
    answers = {"/api/later": missing, "/api/show": plain(200, "application/json", b"{}")}
    async with (
        ollama_script(answers) as node,
        running_gateway(node.url, probe={"interval_s": 60}) as running,
    ):
        answer = await client.post(f"{running.url}/api/later", json={"model": "m"})
        assert (answer.status_code, answer.text) == (404, '{"error":"no such file"}')
        assert (
            await client.post(f"{running.url}/api/show", json={"model": "m"})
        ).status_code == 200
