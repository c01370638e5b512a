"""Streams whose model is loaded over several machines meanwhile: what clients see, and what they do not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.errors import CoordinatorFailed
from sollol.sharding.loading import LoadProgress
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.llama_streams import answer
from tests.shards import GIB, ScriptedWorkers, Store
from tests.sim.v1_dialogues import anthropic_client, openai_client

pytestmark = pytest.mark.sim

OFTEN_S = 0.02
QUESTION: Any = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"messages": QUESTION, "stream": True}
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": CHAT,
    "/api/generate": {"prompt": "hi", "stream": True},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi", "stream": True},
    "/v1/responses": {"input": "hi", "stream": True},
    "/v1/messages": {**CHAT, "max_tokens": 8},
}
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.small("one", "two")
    return store


@pytest.fixture
def workers() -> ScriptedWorkers:
    """Workers that load nothing yet."""
    workers = ScriptedWorkers(w1=GIB, w2=GIB)
    workers.may_load.clear()
    return workers


@contextlib.asynccontextmanager
async def sharding(
    store: Store, workers: ScriptedWorkers, *nodes: str, every_s: float = OFTEN_S, **groups: Any
) -> AsyncIterator[tuple[RunningGateway, httpx.AsyncClient]]:
    own = {
        "workers": workers.settings,
        "store": str(store.root),
        "context_length": 512,
        "progress_after_s": every_s,
    }
    async with running_gateway(*nodes, workers=workers, sharding=own, **groups) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
            yield running, client
    assert all(made.is_stopped for made in workers.made)


class Stream:
    """A stream that has begun; ``seen`` is what has come of it."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self.status = response.status_code
        self.seen = b""
        self._pieces = response.aiter_raw()

    async def until(self, condition: Callable[[bytes], bool]) -> None:
        while not condition(self.seen):
            self.seen += await anext(self._pieces)

    async def rest(self) -> bytes:
        """Return what had not come yet."""
        before = len(self.seen)
        async for piece in self._pieces:
            self.seen += piece
        return self.seen[before:]


@contextlib.asynccontextmanager
async def asked(
    client: httpx.AsyncClient, path: str, model: str = "one", **headers: str
) -> AsyncIterator[Stream]:
    """Ask for a stream, and wait for its head."""
    body = {"model": model, **BODIES[path]}
    async with client.stream("POST", path, json=body, headers=headers) as response:
        yield Stream(response)


def records(seen: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in seen.splitlines()]


def users_of(running: RunningGateway) -> int:
    assert running.gateway.shards is not None
    return sum(shard.users for shard in running.gateway.shards.all())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_comments_tell_how_far_it_is(
    store: Store, workers: ScriptedWorkers, path: str
) -> None:
    async with sharding(store, workers) as (_, client), asked(client, path) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert ("cache-control" in stream.headers) == (path == "/v1/responses")
        assert stream.headers["x-sollol-request-id"]
        assert "x-sollol-node" not in stream.headers
        await wait_for(lambda: bool(workers.made))
        workers.made[0].on_progress(LoadProgress(0.42, 30.4))
        told = b": loading 42%, about 30 s left\n\n"
        await stream.until(lambda seen: seen.count(told) >= 2)
        workers.made[0].on_progress(LoadProgress(0.9, None))
        await stream.until(lambda seen: b": loading 90%\n\n" in seen)
        workers.may_load.set()
        await stream.until(lambda seen: b"hello" in seen)
        await stream.rest()
        events = [each for each in stream.seen.split(b"\n\n") if each]
        answered = [each for each in events if not each.startswith(b": ")]
        assert events[-len(answered) :] == answered
        assert b"HTTP/1.1" not in stream.seen


async def test_pings_come_before_a_message(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers) as (_, client), asked(client, "/v1/messages") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache"
        await stream.until(lambda seen: seen.count(PING) >= 2)
        workers.may_load.set()
        await stream.rest()
        assert stream.seen.replace(PING, b"").startswith(b"event: message_start\n")
        assert stream.seen.endswith(b'{"type": "message_stop"}\n\n')


@pytest.mark.parametrize(
    ("path", "nothing"),
    [
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
        ("/api/generate", {"response": ""}),
    ],
)
async def test_records_of_ollama_have_no_text(
    store: Store, workers: ScriptedWorkers, path: str, nothing: dict[str, Any]
) -> None:
    async with sharding(store, workers) as (_, client), asked(client, path) as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        await stream.until(lambda seen: seen.count(b"\n") >= 2)
        for record in records(stream.seen):
            assert record.pop("created_at").endswith("Z")
            assert record == {"model": "one", **nothing, "done": False}
        workers.may_load.set()
        await stream.rest()
        last = records(stream.seen)[-1]
        assert (last["done"], last["done_reason"]) == (True, "stop")


async def _ollama_chat(url: str) -> str:
    client = ollama.AsyncClient(url)
    try:
        parts = [part async for part in await client.chat("one", QUESTION, stream=True)]
        assert not parts[0].message.content
        assert parts[-1].done
        return "".join(part.message.content or "" for part in parts)
    finally:
        await client._client.aclose()


async def _ollama_generate(url: str) -> str:
    client = ollama.AsyncClient(url)
    try:
        parts = [part async for part in await client.generate("one", "hi", stream=True)]
        return "".join(part.response or "" for part in parts)
    finally:
        await client._client.aclose()


async def _openai_chat(url: str) -> str:
    async with openai_client(url) as client:
        chunks = await client.chat.completions.create(model="one", messages=QUESTION, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])


async def _openai_completions(url: str) -> str:
    async with openai_client(url) as client:
        chunks = await client.completions.create(model="one", prompt="hi", stream=True)
        return "".join([chunk.choices[0].text async for chunk in chunks])


async def _openai_responses(url: str) -> str:
    async with openai_client(url) as client:
        events = await client.responses.create(model="one", input="hi", stream=True)
        text = ""
        async for event in events:
            if event.type == "error":  # which the client gives out like any other
                raise openai.OpenAIError(event.message)
            text += event.delta if event.type == "response.output_text.delta" else ""
        return text


async def _anthropic_create(url: str) -> str:
    async with anthropic_client(url) as client:
        events = await client.messages.create(
            model="one", max_tokens=8, messages=QUESTION, stream=True
        )
        kinds = [event.type async for event in events]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        return "hello"


async def _anthropic_stream(url: str) -> str:
    async with anthropic_client(url) as client:
        async with client.messages.stream(model="one", max_tokens=8, messages=QUESTION) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            assert (await stream.get_final_message()).stop_reason == "end_turn"
            return text


OFFICIAL: tuple[Callable[[str], Awaitable[str]], ...] = (
    _ollama_chat,
    _ollama_generate,
    _openai_chat,
    _openai_completions,
    _openai_responses,
    _anthropic_create,
    _anthropic_stream,
)


async def _until_told(client: httpx.AsyncClient) -> None:
    """Wait, after others have asked, until they have been told at least twice."""
    async with asked(client, "/v1/messages") as stream:
        await stream.until(lambda seen: seen.count(PING) >= 3)


async def test_official_clients_see_the_answer_only(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers) as (running, client):
        answers = [asyncio.ensure_future(asks(running.url)) for asks in OFFICIAL]
        await wait_for(lambda: users_of(running) == len(OFFICIAL))
        await _until_told(client)
        workers.may_load.set()
        assert await asyncio.gather(*answers) == ["hello"] * len(OFFICIAL)


async def test_official_clients_see_a_load_fail(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers) as (running, client):
        answers = [asyncio.ensure_future(asks(running.url)) for asks in OFFICIAL]
        await wait_for(lambda: users_of(running) == len(OFFICIAL))
        await _until_told(client)
        workers.failures += [CoordinatorFailed("no memory")] * 2
        workers.may_load.set()
        failures = await asyncio.gather(*answers, return_exceptions=True)
        kinds = (ollama.ResponseError, openai.OpenAIError, anthropic.APIError)
        for failure in failures:
            assert isinstance(failure, kinds), failure
            assert "no memory" in str(failure)


@pytest.mark.parametrize("path", BODIES)
async def test_a_failed_load_ends_the_stream_in_an_error(
    store: Store, workers: ScriptedWorkers, path: str
) -> None:
    async with sharding(store, workers) as (_, client), asked(client, path) as stream:
        await stream.until(bool)
        workers.failures += [CoordinatorFailed("no <memory>")] * 2
        workers.may_load.set()
        rest = await stream.rest()
        assert stream.status == 200
        assert rest.count(b"error") >= 1
        last = rest.splitlines()[-1] if path.startswith("/api") else rest.split(b"data: ")[-1]
        told = json.loads(last)
        told = told.get("error", told)
        assert (told if isinstance(told, str) else told["message"]) == "one:latest: no <memory>"
        failed = json.loads((await client.get("/sollol/v1/decisions")).content)["decisions"][0]
        assert (failed["status"], failed["error"]) == (502, "one:latest: no <memory>")


async def test_what_does_not_stream_is_told_nothing(store: Store, workers: ScriptedWorkers) -> None:
    bodies = {
        "/api/chat": {"messages": QUESTION, "stream": False},
        "/api/generate": {},  # nothing but a load: one body of JSON
        "/v1/chat/completions": {"messages": QUESTION},
        "/api/embed": {"input": "hi"},
    }
    async with sharding(store, workers) as (running, client):
        waiting = [
            asyncio.ensure_future(client.post(path, json={"model": "one", **body}))
            for path, body in bodies.items()
        ]
        await wait_for(lambda: users_of(running) == len(waiting))
        await _until_told(client)
        workers.may_load.set()
        answers = await asyncio.gather(*waiting)
        assert [each.status_code for each in answers[:3]] == [200] * 3
        assert answers[1].json()["done_reason"] == "load"
        assert all(each.headers["x-sollol-node"] == "shard:one:latest" for each in answers[:3])
        assert answers[3].headers["content-type"].startswith("application/json")


async def test_it_can_be_turned_off(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers, every_s=0) as (running, client):
        waits = asyncio.ensure_future(client.post("/api/chat", json={"model": "one", **CHAT}))
        await wait_for(lambda: users_of(running) == 1)
        workers.may_load.set()
        answered = await waits
        assert answered.headers["x-sollol-node"] == "shard:one:latest"
        assert len(answered.content.splitlines()) == 2


async def test_a_client_that_leaves_frees_its_place(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers) as (running, client):
        async with asked(client, "/api/chat") as stream:
            await stream.until(bool)
            assert users_of(running) == 1
        await wait_for(lambda: users_of(running) == 0)
        workers.may_load.set()


async def test_a_deadline_ends_the_stream(store: Store, workers: ScriptedWorkers) -> None:
    async with sharding(store, workers) as (_, client):
        deadline = {"x-sollol-deadline": "0.3"}
        async with asked(client, "/api/chat", **deadline) as stream:
            last = (await stream.rest()).splitlines()[-1]
            assert "deadline of 0.3 s" in json.loads(last)["error"]
        workers.may_load.set()


async def test_a_model_that_is_lost_is_asked_again_after_records(
    store: Store, workers: ScriptedWorkers
) -> None:
    workers.hold_all = True
    async with sharding(store, workers) as (_, client), asked(client, "/api/chat") as stream:
        await stream.until(bool)
        workers.may_load.set()
        await wait_for(lambda: bool(workers.made) and workers.made[0].asked == 1)
        workers.may_load.clear()
        await workers.made[0].die("it aborted")
        await wait_for(lambda: len(workers.made) == 2)
        before = stream.seen.count(b"\n")
        await stream.until(lambda seen: seen.count(b"\n") >= before + 2)
        workers.hold_all = False
        workers.made[1].hold.set()
        workers.may_load.set()
        await stream.rest()
        told = records(stream.seen)
        assert "".join(each["message"]["content"] for each in told) == "hello"
        assert told[-1]["done"]


async def test_one_that_waits_for_a_model_to_leave_is_told(
    store: Store, workers: ScriptedWorkers
) -> None:
    workers.may_load.set()
    workers.hold_all = True
    async with sharding(store, workers, every_s=0.1) as (_, client):
        body = {"model": "one", "messages": QUESTION, "stream": False}
        busy = asyncio.ensure_future(client.post("/api/chat", json=body))
        await wait_for(lambda: bool(workers.made) and workers.made[0].asked == 1)
        await client.delete("/sollol/v1/shards/one")
        workers.hold_all = False
        async with asked(client, "/v1/chat/completions") as stream:
            await stream.until(lambda seen: b": leaving\n\n" in seen)
            workers.made[0].hold.set()
            await stream.rest()
            assert b"hello" in stream.seen
        assert (await busy).status_code == 200
    assert len(workers.made) == 2


async def test_an_error_of_the_node_is_told_in_the_stream(
    store: Store, workers: ScriptedWorkers
) -> None:
    refusal = b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}'
    said = {
        "/api/chat": answer("400 Bad Request", "application/json", refusal),
        "/v1/chat/completions": answer("400 Bad Request", "application/json", refusal),
        "/v1/messages": answer("500 No", "application/json", refusal),
        "/v1/completions": answer("200 OK", "text/event-stream", b"data: " + refusal + b"\n\n"),
        "/api/generate": answer("200 OK", "text/event-stream", b"data: " + refusal + b"\n\n"),
    }
    for path, workers.says in said.items():
        workers.may_load.clear()
        async with sharding(store, workers) as (_, client), asked(client, path) as stream:
            await stream.until(bool)
            workers.may_load.set()
            rest = await stream.rest()
            last = rest.strip().splitlines()[-1].removeprefix(b"data: ")
            told = json.loads(last)["error"]
            assert (told if isinstance(told, str) else told["message"]) == "too long", path


@pytest.mark.parametrize("on_cut", ["error", "continue"])
async def test_an_answer_that_breaks_off_ends_in_an_error(
    store: Store, workers: ScriptedWorkers, on_cut: str
) -> None:
    chunk = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"hel"}}]}\n\n'
    workers.says = answer("200 OK", "text/event-stream", chunk)
    path, headers = "/v1/chat/completions", {"x-sollol-on-cut": on_cut}
    async with sharding(store, workers) as (_, client), asked(client, path, **headers) as stream:
        await stream.until(bool)
        workers.may_load.set()
        await stream.rest()
        comments, _, answered = stream.seen.partition(chunk)
        assert comments.startswith(b": ")
        assert answered.startswith(b'\ndata: {"error":')
        assert workers.made[0].asked == 1


async def test_an_answer_that_is_no_stream_is_not_taken_for_one(
    store: Store, workers: ScriptedWorkers
) -> None:
    workers.says = answer("200 OK", "application/json", b" " * 1_100_000)
    async with (
        sharding(store, workers) as (_, client),
        asked(client, "/v1/chat/completions") as stream,
    ):
        await stream.until(bool)
        workers.may_load.set()
        rest = await stream.rest()
        assert rest.count(b'"error"') == 1
        assert b"   " not in rest


async def test_another_model_may_answer_below_the_records(
    store: Store, workers: ScriptedWorkers
) -> None:
    workers.says = answer(
        "404 Not Found",
        "application/json",
        b'{"error":{"code":404,"message":"no model","type":"not_found_error"}}',
    )
    rules = {"one": {"fallback": ["two"]}}
    async with (
        SimNode(SimConfig(models=(SimModel("two"),))) as node,
        sharding(store, workers, node.url, models=rules) as (_, client),
        asked(client, "/v1/chat/completions") as stream,
    ):
        await stream.until(bool)
        workers.may_load.set()
        await stream.rest()
        answered = stream.seen[stream.seen.index(b"data:") :]
        assert b'"model":"two"' in answered
        assert answered.endswith(b"data: [DONE]\n\n")
