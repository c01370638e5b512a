"""Asks for what must be refused, and checks what must be so whatever is wrong."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.shards import Store

ANSWERED_S = 20.0
"""What no answer may take; two seconds are waited for a worker that does not answer."""
API = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages")
ROUTES = list(itertools.product(API, (False, True)))
"""Taken in turn; whether a stream is asked for makes no difference before its first byte."""
Record = Callable[[str, object], None]
Capsys = pytest.CaptureFixture[str]
Caplog = pytest.LogCaptureFixture


class Asker:
    """A client of a gateway that has a good model too."""

    def __init__(self, client: httpx.AsyncClient, good_model: str) -> None:
        self.client = client
        self.good_model = good_model

    async def ask(self, number: int, model: str) -> httpx.Response:
        path, stream = ROUTES[number % len(ROUTES)]
        body: dict[str, Any] = {"model": model, "stream": stream, "max_tokens": 2}
        if path == "/api/generate":
            body["prompt"] = "hi"
        else:
            body["messages"] = [{"role": "user", "content": "hi"}]
        if path.startswith("/api"):
            body["options"] = {"num_predict": body.pop("max_tokens")}
        async with asyncio.timeout(ANSWERED_S):
            return await self.client.post(path, json=body)

    async def refused(self, number: int, model: str) -> httpx.Response:
        """Ask for a bad model; check what must be so whatever is wrong with it."""
        before = children()
        answer = await self.ask(number, model)
        assert children() == before
        served = await self.ask(number, self.good_model)
        assert served.status_code == 200, served.text
        return answer


def children() -> set[int]:
    """Return the processes that this one has started, and theirs."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=ANSWERED_S)


def told(answer: httpx.Response) -> str:
    """Return the text of an error; check that it has the form of the API that was asked."""
    path, status = answer.request.url.path, answer.status_code
    body: dict[str, Any] = answer.json()
    if path.startswith("/api"):
        assert list(body) == ["error"]
        text = body["error"]
    elif path == "/v1/messages":
        assert list(body) == ["type", "error", "request_id"]
        assert list(body["error"]) == ["type", "message"]
        text = body["error"]["message"]
    else:
        assert list(body["error"]) == ["message", "type", "param", "code"]
        text = body["error"]["message"]
    assert status >= 400
    assert isinstance(text, str)
    return text


def sharding(store: Store) -> dict[str, Any]:
    """Settings with which small models run."""
    return {"store": str(store.root), "threads": 1, "context_length": 512}


def check_quiet(capsys: Capsys, caplog: Caplog) -> None:
    """Check that nothing in the log is a fault of ours."""
    written = capsys.readouterr()
    assert "Traceback" not in written.out + written.err
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
