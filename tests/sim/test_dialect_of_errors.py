"""Errors of a llama-server, which has one form for all of its APIs, in the form of the caller's API."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llama_streams import answer
from tests.sharded import chat, sharding
from tests.shards import GIB, ScriptedWorkers, Store

pytestmark = pytest.mark.sim

SAID = {"error": {"code": 400, "message": "too long <b>", "type": "exceed_context_size_error"}}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@asynccontextmanager
async def saying(tmp_path: Path, said: bytes) -> AsyncIterator[httpx.AsyncClient]:
    """Run a model over a worker whose coordinator answers only this, once it is loaded."""
    store = Store(tmp_path / "models")
    store.small("one")
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        workers.says = said
        yield client


def json_of(status: str, body: object) -> bytes:
    return answer(status, "application/json; charset=utf-8", json.dumps(body).encode())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
async def test_a_status(tmp_path: Path, status: int, kind: str, stream: bool) -> None:
    async with saying(tmp_path, json_of(f"{status} X", SAID)) as client:
        told = await client.post("/v1/messages", json={"model": "one", "stream": stream, **ASKED})
        assert told.status_code == status
        assert told.headers["content-type"].startswith("application/json")
        assert told.json()["type"] == "error"
        assert told.json()["error"] == {"type": kind, "message": "too long <b>"}
        assert told.json()["request_id"].startswith("req_")
        openai = await client.post("/v1/chat/completions", json={"model": "one", **ASKED})
        assert openai.json() == SAID


async def test_a_stream_that_is_nothing_but_an_error(tmp_path: Path) -> None:
    event = b"event: error\ndata: " + json.dumps(SAID["error"]).encode() + b"\n\n"
    async with saying(tmp_path, answer("200 OK", "text/event-stream", event)) as client:
        told = await client.post("/v1/messages", json={"model": "one", "stream": True, **ASKED})
        assert told.text.startswith("event: error\ndata: ")
        body = json.loads(told.text.partition("data: ")[2])
        assert body["type"] == "error"
        assert body["error"] == {"type": "api_error", "message": "too long <b>"}


async def test_what_has_the_form_already_is_passed_on(tmp_path: Path) -> None:
    said = {"type": "error", "error": {"type": "api_error", "message": "no"}, "request_id": "req_1"}
    async with saying(tmp_path, json_of("500 X", said)) as client:
        told = await client.post("/v1/messages", json={"model": "one", **ASKED})
        assert told.json() == said
