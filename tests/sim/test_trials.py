"""A node that failed is on trial until it begins to answer, not until that answer ends."""

import asyncio
import contextlib
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
CONFIG = SimConfig(models=(SimModel(MODEL),), slots=2)
LONG_S, SHORT_S = 300.0, 0.01
"""Ejections that outlast a test, and that are over at once."""

EJECTED, HEALTHY = NodeState.EJECTED, NodeState.HEALTHY


@contextlib.asynccontextmanager
async def on_trial(eject_s: float) -> AsyncIterator[tuple[SimNode, RunningGateway]]:
    """Yield a node of which one request has failed, which is one too many, and its gateway."""
    failover = {"eject_after": 1, "eject_s": eject_s}
    once = {"max_attempts": 1}
    async with SimNode(CONFIG) as node:
        settings = {"url": node.url, "slots": 2}
        async with running_gateway(settings, failover=failover, upstream=once) as running:
            node.set_fault(Fault("garbage", path="/api/chat", times=1))
            assert (await chat(running)).status_code == 502
            yield node, running


async def chat(running: RunningGateway, *, stream: bool = False) -> httpx.Response:
    message = {"role": "user", "content": "hi"}
    body = {"model": MODEL, "messages": [message], "options": {"num_predict": 6}, "stream": stream}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{running.url}/api/chat", json=body)


def state(running: RunningGateway) -> NodeState:
    (view,) = running.gateway.registry.views()
    return view.state


@contextlib.asynccontextmanager
async def endless_stream(node: SimNode, running: RunningGateway) -> AsyncIterator[None]:
    """Have a stream under way that has begun, and ends with the block."""
    node.set_fault(Fault("hang_after_n_records", path="/api/chat", records=2, times=1))
    (known,) = running.gateway.registry.nodes()
    asked = asyncio.ensure_future(chat(running, stream=True))
    await wait_for(lambda: known.connections.is_moving(60.0))
    yield
    assert not asked.done()
    asked.cancel()


async def test_the_last_resort_gets_more_once_it_has_begun_to_answer() -> None:
    async with on_trial(LONG_S) as (node, running), endless_stream(node, running):
        answers = await asyncio.gather(chat(running), chat(running))
        assert [answer.status_code for answer in answers] == [200, 200]
        assert state(running) is EJECTED


async def test_a_half_open_node_is_healthy_once_it_has_begun_to_answer() -> None:
    async with on_trial(SHORT_S) as (node, running):
        await wait_for(lambda: state(running) is NodeState.HALF_OPEN)
        async with endless_stream(node, running):
            await wait_for(lambda: state(running) is HEALTHY)
            assert (await chat(running)).status_code == 200


async def test_a_node_that_begins_each_answer_and_ends_none_is_ejected_each_time() -> None:
    async with on_trial(SHORT_S) as (node, running):
        (known,) = running.gateway.registry.nodes()
        node.set_fault(Fault("cut_after_n_records", path="/api/chat", records=2))
        for ejections in (2, 3, 4):
            await wait_for(lambda: state(running) is NodeState.HALF_OPEN)
            assert "error" in (await chat(running, stream=True)).text
            assert known.health.ejections_total == ejections


async def test_an_answer_that_is_an_error_ends_no_trial() -> None:
    async with on_trial(SHORT_S) as (node, running):
        await wait_for(lambda: state(running) is NodeState.HALF_OPEN)
        node.set_fault(Fault("status", path="/api/chat", status=400, times=1))
        assert (await chat(running)).status_code == 400
        assert state(running) is NodeState.HALF_OPEN
