"""What is measured of an answer, on every route and however it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.types import Measured
from tests.gateways import running_gateway, wait_for
from tests.watched import WatchedAdmission, watched

pytestmark = pytest.mark.sim

MODELS = (
    SimModel("m", capabilities=("completion", "tools", "embedding"), embedding_length=700),
    SimModel("other"),
)
PROMPT = "tell me of the sea " * 200
MESSAGES = [{"role": "user", "content": PROMPT}]
OLLAMA = {"model": "m", "options": {"num_predict": 6}}
OPENAI = {"model": "m", "max_tokens": 6}


@dataclass
class World:
    node: SimNode
    client: httpx.AsyncClient
    watch: WatchedAdmission

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(path, json=body)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with (
        SimNode(SimConfig(models=MODELS, reports_cached_count=True, slots=4)) as node,
        running_gateway(node.url, probe={"interval_s": 3600}) as running,
        httpx.AsyncClient(base_url=running.url, timeout=10) as client,
    ):
        yield World(node, client, watched(running))


def check_clock(sut: Measured) -> None:
    assert sut.first_byte_s is not None
    assert sut.total_s is not None
    assert 0 < sut.first_byte_s <= sut.total_s < 10


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/chat", {"messages": MESSAGES}), ("/api/generate", {"prompt": PROMPT})],
)
async def test_ollamas_own_numbers(
    world: World, stream: bool, path: str, body: dict[str, Any]
) -> None:
    answer = await world.post(path, {**OLLAMA, **body, "stream": stream})
    told = json.loads(answer.text.splitlines()[-1])
    sut = world.watch.last
    check_clock(sut)
    assert (sut.prompt_tokens, sut.output_tokens) == (told["prompt_eval_count"], 6)
    assert sut.load_s == told["load_duration"] / 1e9
    assert sut.prompt_s == told["prompt_eval_duration"] / 1e9
    assert sut.output_s == told["eval_duration"] / 1e9
    assert sut.node_total_s == told["total_duration"] / 1e9
    assert (sut.pieces > 0) is stream
    await world.post(path, {**OLLAMA, **body, "stream": stream})
    assert world.watch.last.cached_tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {"prompt": "of the sea"}),
        ("/v1/completions", {"prompt": "of the sea", "stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/responses", {"input": "of the sea", "max_output_tokens": 6}),
        ("/v1/responses", {"input": "of the sea", "max_output_tokens": 6, "stream": True}),
        ("/v1/messages", {"messages": MESSAGES}),
        ("/v1/messages", {"messages": MESSAGES, "stream": True}),
    ],
)  # fmt: skip
async def test_tokens_on_v1(world: World, path: str, body: dict[str, Any]) -> None:
    answer = await world.post(path, {**OPENAI, **body})
    assert answer.status_code == 200
    sut = world.watch.last
    check_clock(sut)
    assert sut.prompt_tokens
    assert sut.output_tokens == 6
    assert (sut.pieces > 0) is ("stream" in body)
    assert (sut.load_s, sut.prompt_s, sut.output_s) == (None, None, None)


async def test_a_stream_without_usage_tells_its_pieces(world: World) -> None:
    await world.post("/v1/chat/completions", {**OPENAI, "messages": MESSAGES, "stream": True})
    sut = world.watch.last
    check_clock(sut)
    assert (sut.prompt_tokens, sut.output_tokens) == (None, None)
    assert sut.pieces > 0


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_embeddings(world: World, path: str) -> None:
    await world.post(path, {"model": "m", "input": ["the sea", "the land"] * 20})
    sut = world.watch.last
    check_clock(sut)
    assert sut.prompt_tokens
    assert (sut.load_s is not None) is (path == "/api/embed")
    assert sut.output_tokens is None


async def test_answers_without_numbers_tell_the_time(world: World) -> None:
    await world.post("/api/embeddings", {"model": "m", "prompt": "the sea"})
    check_clock(world.watch.last)
    await world.post("/api/generate", {"model": "m"})
    check_clock(world.watch.last)
    assert world.watch.last.output_tokens is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/show", {"model": "m"}),
        ("/api/generate", {"model": "m", "keep_alive": 0}),
        ("/api/chat", {"model": "m", "messages": MESSAGES, "think": True}),
    ],
)
async def test_of_facts_unloading_and_refusals_nothing_is_measured(
    world: World, path: str, body: dict[str, Any]
) -> None:
    await world.post(path, body)
    assert world.watch.measured == [None]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("error_record_after_n", records=2, message="boom"),
        Fault("cut_after_n_records", records=2),
        Fault("status", status=500),
        Fault("refuse"),
    ],
    ids=lambda fault: fault.kind,
)
async def test_of_failures_nothing_is_measured(world: World, fault: Fault) -> None:
    world.node.set_fault(fault)
    await world.post("/api/chat", {**OLLAMA, "messages": MESSAGES})
    assert set(world.watch.measured) == {None}  # the one node may be tried again
    world.node.clear_faults()


async def test_of_an_answer_left_early_the_pieces_are_known() -> None:
    config = SimConfig(models=MODELS, chunk_interval_s=0.02)
    body = {"model": "m", "messages": MESSAGES, "options": {"num_predict": 5000}}
    async with (
        SimNode(config) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url, timeout=10) as client,
    ):
        watch = watched(running)
        async with client.stream("POST", "/api/chat", json=body) as answer:
            lines = answer.aiter_lines()
            for _ in range(3):
                await anext(lines)
        await wait_for(lambda: bool(watch.measured))
        sut = watch.last
        assert sut.pieces >= 1  # a busy machine brings several lines in one
        assert sut.first_byte_s is not None
        assert (sut.total_s, sut.output_tokens) == (None, None)
        # Left before the first piece, nothing is known.
        asking = asyncio.create_task(client.post("/api/chat", json={**body, "stream": False}))
        await wait_for(lambda: len(watch.requests) == 2)
        asking.cancel()
        await asyncio.wait([asking])
        await wait_for(lambda: len(watch.measured) == 2)
        assert watch.measured[-1] is None


async def test_a_long_whole_answer_is_not_read(world: World) -> None:
    await world.post("/api/embed", {"model": "m", "input": [str(n) for n in range(200)]})
    sut = world.watch.last
    check_clock(sut)
    assert sut.prompt_tokens is None
