"""A node that probes find to be down: nobody goes on waiting for it, unless it still answers."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.types import NodeState
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
QUICK = SimConfig(models=(SimModel(MODEL),))
PACED = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.05)
PROBE = {"timeout_s": 0.1, "fall": 2}


def chat(tokens: int = 6) -> dict[str, object]:
    message = {"role": "user", "content": "hi"}
    return {"model": MODEL, "messages": [message], "options": {"num_predict": tokens}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


def state(running: RunningGateway, node: SimNode) -> NodeState:
    found = running.gateway.registry.find_url(node.url)
    assert found is not None
    return found.view.state


async def test_a_request_that_waits_for_a_node_that_goes_silent_is_tried_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    async with SimNode(QUICK) as one, SimNode(QUICK) as two:
        async with running_gateway(one.url, two.url, probe=PROBE) as running:
            for node in (one, two):  # none of them loads then, which would explain silence
                await client.post(f"{node.url}/api/generate", json={"model": MODEL})
            await wait_for(lambda: all(v.resident for v in running.gateway.registry.views()))
            hang = Fault("hang_before_head", path="/api/chat")
            one.set_fault(hang)
            two.set_fault(hang)
            asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat()))
            await wait_for(lambda: running.in_flight == 1)
            await wait_for(lambda: one.in_flight + two.in_flight == 1)
            silent, other = (one, two) if one.in_flight else (two, one)
            other.clear_faults()
            silent.set_fault(Fault("hang_before_head", path="/api/version"))
            answer = await asked
            assert answer.status_code == 200
            assert answer.headers["x-sollol-node"] == other.url.removeprefix("http://")
            assert state(running, silent) is NodeState.UNHEALTHY
            silent.clear_faults()
            await running.wait_healthy(2)


async def test_an_answer_that_moves_is_a_sign_of_life(client: httpx.AsyncClient) -> None:
    async with SimNode(PACED) as node, running_gateway(node.url, probe=PROBE) as running:
        asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(20)))
        found = running.gateway.registry.find_url(node.url)
        assert found is not None
        await wait_for(lambda: found.connections.is_moving(5.0))
        node.set_fault(Fault("hang_before_head", path="/api/version"))
        answer = await asked
        assert '"done":true' in answer.text
        node.clear_faults()


async def test_a_node_that_refuses_finishes_what_it_has_begun(client: httpx.AsyncClient) -> None:
    """As a server does that is being stopped."""
    async with SimNode(PACED) as node, running_gateway(node.url) as running:
        asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(20)))
        found = running.gateway.registry.find_url(node.url)
        assert found is not None
        await wait_for(lambda: found.connections.is_moving(5.0))
        running.gateway.registry.probe_failed(found.view.id, "refused", is_refused=True)
        assert state(running, node) is NodeState.UNHEALTHY
        assert '"done":true' in (await asked).text
