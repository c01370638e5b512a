"""Everything that can be wrong with a model over several machines, through the gateway over HTTP.

Each is refused with a text that says what is wrong and what to do, in the words of the caller's API;
the log has no traceback, no process is left, and other models are served as before.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sollol.bench.sharding_memory import running_worker
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.llamacpp.binaries import find_binaries
from tests.conftest import BAD_INPUT
from tests.gateways import running_gateway
from tests.llamacpp.bad_models import BAD_MODELS, BadModel, good
from tests.llamacpp.bad_surroundings import BAD_SURROUNDINGS, BadSurroundings
from tests.llamacpp.shards import NEEDS_WORKERS
from tests.shards import Store

pytestmark = NEEDS_WORKERS

ANSWERED_S = 20.0
"""What no answer may take; two seconds are waited for a worker that does not answer."""
API = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages")
ROUTES = list(itertools.product(API, (False, True)))
"""Taken in turn; whether a stream is asked for makes no difference before its first byte."""
CONTEXT = 512
Record = Callable[[str, object], None]


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
    return httpx.AsyncClient(base_url=url, timeout=ANSWERED_S, trust_env=False)


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


@pytest.fixture(scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Store, Asker]]:
    """A gateway over two workers; one of them holds the good model."""
    store = Store(tmp_path_factory.mktemp("ollama") / "models")
    good(store, "good")
    binaries = find_binaries()
    async with running_worker(binaries) as one, running_worker(binaries) as other:
        settings = {"workers": [f"{one}=1", f"{other}=1"], **sharding(store)}
        async with running_gateway(sharding=settings) as running:
            async with client_of(running.url) as client:
                asker = Asker(client, "good")
                assert (await asker.ask(0, "good")).status_code == 200
                yield store, asker


def sharding(store: Store) -> dict[str, Any]:
    return {"store": str(store.root), "threads": 1, "context_length": CONTEXT}


@pytest.fixture
def quiet(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[], None]:
    """Checks that nothing in the log is a fault of ours."""

    def check() -> None:
        written = capsys.readouterr()
        assert "Traceback" not in written.out + written.err
        assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    return check


@pytest.mark.parametrize("bad", BAD_MODELS, ids=[bad.name for bad in BAD_MODELS])
async def test_a_model_that_cannot_be_run(
    bad: BadModel, rig: tuple[Store, Asker], quiet: Callable[[], None], record_property: Record
) -> None:
    store, asker = rig
    bad.put(store, bad.name)
    number = BAD_MODELS.index(bad)
    answer = await asker.refused(number, bad.model)
    text = told(answer)
    record_property(BAD_INPUT, (number, bad.name, answer.status_code, text))
    assert answer.status_code == bad.status, text
    for words in bad.says:
        assert words in text
    assert bad.asked or bad.name in text.replace(str(store.root), "")
    quiet()


@pytest.mark.parametrize("bad", BAD_SURROUNDINGS, ids=[bad.name for bad in BAD_SURROUNDINGS])
async def test_a_good_model_that_cannot_be_run(
    bad: BadSurroundings, tmp_path: Path, quiet: Callable[[], None], record_property: Record
) -> None:
    store = Store(tmp_path / "models")
    good(store, "good")
    number = BAD_SURROUNDINGS.index(bad)
    node = SimNode(SimConfig(models=(SimModel("other"),), time_scale=0))
    async with node, bad.around(store, tmp_path) as changes:
        settings = sharding(store) | changes
        async with running_gateway(node.url, sharding=settings) as running:
            async with client_of(running.url) as client:
                answer = await Asker(client, "other").refused(number, "good")
    text = told(answer)
    record_property(BAD_INPUT, (len(BAD_MODELS) + number, bad.name, answer.status_code, text))
    assert answer.status_code == bad.status, text
    (first, *_) = changes["workers"]
    for words in bad.says:
        assert words.format(worker=first.partition("=")[0]) in text
    assert "good" in text
    quiet()


def test_the_table_is_long_enough() -> None:
    names = {bad.name for bad in (*BAD_MODELS, *BAD_SURROUNDINGS)}
    assert len(names) == len(BAD_MODELS) + len(BAD_SURROUNDINGS) >= 36
