"""How long nodes are waited for: loads, hangs, and requests that wait inside a node."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.gateway.patience import Bounds
from tests.gateways import running_gateway, wait_for
from tests.watched import watched

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
QUICK = SimConfig(models=(SimModel(MODEL),))
PACED = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.03)
LOADS_SLOWLY = SimConfig(models=(SimModel(MODEL),), load_gib_per_s=1.0, time_scale=0.15)
"""Two GiB: 0.3 s."""
BOUNDS = Bounds(first_byte_s=20.0, load_s=10.0, stall_s=10.0, floor_s=0.05)
WORDS = (
    "a prompt that is long enough for its speed to be worth learning from, all things considered"
)


def chat(stream: bool = True, tokens: int = 20) -> dict[str, Any]:
    messages = [{"role": "user", "content": WORDS}]
    return {
        "model": MODEL,
        "messages": messages,
        "stream": stream,
        "options": {"num_predict": tokens},
    }


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cold_load_is_no_failure_however_long_it_takes(
    client: httpx.AsyncClient, stream: bool
) -> None:
    async with SimNode(LOADS_SLOWLY) as node, running_gateway(node.url) as running:
        watch = watched(running, BOUNDS)
        answer = await client.post(f"{running.url}/api/chat", json=chat(stream))
        assert answer.status_code == 200
        assert watch.faults == [False]
        assert watch.last.first_byte_s is not None
        assert watch.last.first_byte_s > BOUNDS.floor_s


async def test_a_request_that_comes_during_a_load_waits_for_it_too(
    client: httpx.AsyncClient,
) -> None:
    async with SimNode(LOADS_SLOWLY) as node:
        async with running_gateway({"url": node.url, "slots": 2}) as running:
            watch = watched(running, BOUNDS)
            asked = [client.post(f"{running.url}/api/chat", json=chat()) for _ in range(2)]
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200, 200]
            assert [lease.loads for lease in watch.loads] == [True]
            assert watch.faults == [False, False]


async def test_a_load_without_progress_is_a_failure_after_its_own_limit(
    client: httpx.AsyncClient,
) -> None:
    short = {"stall_timeout_s": 0.02}
    tiny = SimConfig(models=(SimModel(MODEL, size_gib=0.001),))
    async with SimNode(tiny) as node, running_gateway(node.url, upstream=short) as running:
        node.set_fault(Fault("hang_before_head", path="/api/chat"))
        watch = watched(running, BOUNDS._replace(load_s=0.1, floor_s=0.02))
        answer = await client.post(f"{running.url}/api/chat", json=chat())
        assert answer.status_code == 504
        assert watch.faults == [True]


async def test_a_node_that_hangs_with_the_model_in_memory_is_given_up_soon(
    client: httpx.AsyncClient,
) -> None:
    short = {"stall_timeout_s": 0.3}
    async with SimNode(QUICK) as node, running_gateway(node.url, upstream=short) as running:
        watch = watched(running, BOUNDS._replace(floor_s=0.3))
        assert (await client.post(f"{running.url}/api/chat", json=chat())).status_code == 200
        await wait_for(lambda: bool(running.gateway.registry.views()[0].resident))
        node.set_fault(Fault("hang_before_head", path="/api/chat"))
        answer = await client.post(f"{running.url}/api/chat", json=chat())
        assert answer.status_code == 504
        assert "sent no answer within 0." in answer.json()["error"]
        assert watch.faults == [False, True]


async def test_one_that_waits_inside_a_node_for_another_is_waited_for(
    client: httpx.AsyncClient,
) -> None:
    """The settings may promise more slots than the node has."""
    async with SimNode(PACED) as node:
        async with running_gateway({"url": node.url, "slots": 2}) as running:
            watch = watched(running, BOUNDS)
            assert (await client.post(f"{running.url}/api/chat", json=chat())).status_code == 200
            await wait_for(lambda: bool(running.gateway.registry.views()[0].resident))
            asked = [client.post(f"{running.url}/api/chat", json=chat()) for _ in range(2)]
            answers = await asyncio.gather(*asked)
            assert [answer.status_code for answer in answers] == [200, 200]
            assert watch.faults == [False] * 3


async def test_a_tool_call_may_be_silent_for_as_long_as_a_whole_answer(
    client: httpx.AsyncClient,
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    model = SimModel(MODEL, capabilities=("completion", "tools"))
    async with SimNode(SimConfig(models=(model,), chunk_interval_s=0.1)) as node:
        async with running_gateway(node.url, upstream={"stall_timeout_s": 0.03}) as running:
            watch = watched(running, BOUNDS._replace(stall_s=0.03))
            cut = await client.post(f"{running.url}/api/chat", json=chat(tokens=3))
            assert "sent nothing more of its answer for 0.03 s" in cut.text
            whole = chat(tokens=3) | {"tools": [tool]}
            answer = await client.post(f"{running.url}/api/chat", json=whole)
            assert '"done":true' in answer.text
            assert watch.faults == [True, False]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_ends_an_attempt_that_has_no_answer_yet(
    client: httpx.AsyncClient, stream: bool
) -> None:
    async with SimNode(QUICK) as node, running_gateway(node.url) as running:
        watch = watched(running)
        node.set_fault(Fault("hang_before_head", path="/api/chat"))
        headers = {"X-Sollol-Deadline": "0.1"}
        answer = await client.post(f"{running.url}/api/chat", json=chat(stream), headers=headers)
        assert answer.status_code == 504
        text = "no node had begun to answer when its deadline of 0.1 s had passed"
        assert answer.json() == {"error": text}
        assert watch.faults == [False]
        await wait_for(lambda: node.in_flight == 0)
        node.clear_faults()
        answer = await client.post(f"{running.url}/api/chat", json=chat(stream))
        assert answer.status_code == 200


async def test_an_answer_that_has_begun_goes_on_past_the_deadline(
    client: httpx.AsyncClient,
) -> None:
    async with SimNode(PACED) as node, running_gateway(node.url) as running:
        headers = {"X-Sollol-Deadline": "0.3"}
        answer = await client.post(f"{running.url}/api/chat", json=chat(), headers=headers)
        assert '"done":true' in answer.text
        assert node.requests[-1].outcome != "aborted"


async def test_a_deadline_bounds_all_attempts_and_the_waits_between_them(
    client: httpx.AsyncClient,
) -> None:
    async with SimNode(QUICK) as node:
        limits = {"max_attempts": 1000}
        async with running_gateway(node.url, upstream=limits) as running:
            node.set_fault(Fault("status", status=502, path="/api/chat"))
            headers = {"X-Sollol-Deadline": "0.05"}
            answer = await client.post(f"{running.url}/api/chat", json=chat(), headers=headers)
            assert answer.status_code == 504
            assert "its deadline of 0.05 s had passed" in answer.json()["error"]
