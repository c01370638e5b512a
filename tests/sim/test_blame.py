"""Whose fault a broken connection is: the node's, or that of the request which broke several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault, FaultKind
from sollol.bench.sim.node import SimNode
from sollol.types import NodeState
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
CONFIG = SimConfig(models=(SimModel(MODEL),))
LONG_S = 300.0
EJECTED, HEALTHY = NodeState.EJECTED, NodeState.HEALTHY
BREAKS: list[FaultKind] = ["close_before_head", "reset_after_n_records"]


@contextlib.asynccontextmanager
async def fleet(
    count: int, eject_after: int = 1
) -> AsyncIterator[tuple[list[SimNode], RunningGateway]]:
    """Yield nodes that are ejected by so many failures, and their gateway."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(SimNode(CONFIG)) for _ in range(count)]
        failover = {"eject_after": eject_after, "eject_s": LONG_S}
        running = running_gateway(
            *(node.url for node in nodes),
            failover=failover,
            scheduling={"policy": "round_robin"},
        )
        yield nodes, await stack.enter_async_context(running)


def set_fault(nodes: list[SimNode], fault: FaultKind, status: int = 500) -> None:
    for node in nodes:
        node.set_fault(Fault(fault, path="/api/chat", records=2, status=status))


async def chat(running: RunningGateway, *, stream: bool = False) -> httpx.Response:
    message = {"role": "user", "content": "hi"}
    body = {"model": MODEL, "messages": [message], "options": {"num_predict": 6}, "stream": stream}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{running.url}/api/chat", json=body)


async def next_and_other(nodes: list[SimNode], running: RunningGateway) -> tuple[SimNode, SimNode]:
    """Return of two nodes the one whose turn is next."""
    last = (await chat(running)).headers["x-sollol-node"]
    other, breaks = sorted(nodes, key=lambda node: last not in node.url)
    return breaks, other


def states(running: RunningGateway) -> list[NodeState]:
    return sorted(view.state for view in running.gateway.registry.views())


@pytest.mark.parametrize("fault", BREAKS)
async def test_what_breaks_two_nodes_is_the_requests_fault(fault: FaultKind) -> None:
    async with fleet(3) as (nodes, running):
        set_fault(nodes, fault)
        answer = await chat(running)
        assert (answer.status_code, answer.headers["x-sollol-attempts"]) == (502, "2")
        assert states(running) == [HEALTHY] * 3


@pytest.mark.parametrize("fault", BREAKS)
async def test_what_breaks_one_node_and_not_another_is_that_nodes_fault(fault: FaultKind) -> None:
    async with fleet(2) as (nodes, running):
        breaks, _ = await next_and_other(nodes, running)
        set_fault([breaks], fault)
        assert (await chat(running)).status_code == 200
        assert states(running) == [EJECTED, HEALTHY]


async def test_another_nodes_first_byte_is_enough_to_tell() -> None:
    async with fleet(2) as (nodes, running):
        breaks, other = await next_and_other(nodes, running)
        set_fault([breaks], "close_before_head")
        set_fault([other], "hang_after_n_records")
        asked = asyncio.ensure_future(chat(running, stream=True))
        await wait_for(lambda: EJECTED in states(running))
        assert not asked.done()
        asked.cancel()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_only_node_that_has_a_model_is_blamed_alone(*, stream: bool) -> None:
    async with fleet(1) as (nodes, running):
        set_fault(nodes, "reset_after_n_records")
        assert "closed the connection" in (await chat(running, stream=stream)).text
        assert states(running) == [EJECTED]


async def test_a_node_that_crashes_twice_under_one_request_is_blamed_twice() -> None:
    async with fleet(1, eject_after=2) as (nodes, running):
        nodes[0].set_fault(Fault("close_before_head", path="/api/chat", times=1))
        nodes[0].set_fault(Fault("reset_after_n_records", path="/api/chat", records=2, times=1))
        answer = await chat(running, stream=True)
        assert answer.headers["x-sollol-attempts"] == "2"
        assert states(running) == [EJECTED]


async def test_a_node_is_blamed_though_the_client_does_not_wait_for_another() -> None:
    async with fleet(2) as (nodes, running):
        breaks, other = await next_and_other(nodes, running)
        set_fault([breaks], "close_before_head")
        set_fault([other], "hang_before_head")
        asked = asyncio.ensure_future(chat(running))
        await wait_for(lambda: other.in_flight == 1)
        assert states(running) == [HEALTHY] * 2
        asked.cancel()
        await wait_for(lambda: EJECTED in states(running))


async def test_an_error_on_two_nodes_kills_none_so_a_third_is_tried() -> None:
    async with fleet(3) as (nodes, running):
        first = (await chat(running)).headers["x-sollol-node"]
        last = (await chat(running)).headers["x-sollol-node"]
        for node in nodes:
            if first in node.url or last in node.url:
                node.set_fault(Fault("status", path="/api/chat", status=500, message="odd"))
        answers = [await chat(running) for _ in nodes]
        assert [answer.status_code for answer in answers] == [200] * 3
        attempts = [answer.headers["x-sollol-attempts"] for answer in answers]
        assert attempts == ["1", "3", "1"]  # and both are left alone then, with this model


async def test_an_error_that_no_other_node_can_confirm_is_nobodys_fault() -> None:
    async with fleet(1) as (nodes, running):
        nodes[0].set_fault(Fault("status", path="/api/chat", status=500, message="odd"))
        assert (await chat(running)).status_code == 500
        assert states(running) == [HEALTHY]
