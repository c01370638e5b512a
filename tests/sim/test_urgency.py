"""What a caller says of its request's urgency, and what the scheduler and the node see of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.gateway.body_writer import SPOOL_BYTES
from sollol.types import Task
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.watched import watched

pytestmark = pytest.mark.sim

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}
SLOW = SimConfig(models=(SimModel("m"),), chunk_interval_s=0.05)
LONG = {"model": "m", "prompt": "go", "options": {"num_predict": 100_000}}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(SimModel("m"),))) as made:
        yield made


def bodies(node: SimNode, path: str = "/api/chat") -> list[bytes]:
    return [request.body for request in node.requests if request.path == path]


async def test_the_scheduler_is_told_who_asks_for_what(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    async with running_gateway(node.url) as running:
        watch = watched(running)
        headers = {"X-Sollol-Priority": "9", "X-Sollol-Session": "mine"}
        await client.post(f"{running.url}/api/chat", json=CHAT, headers=headers)
        await client.post(f"{running.url}/api/chat", json=CHAT)
    first, second = watch.requests
    assert (first.priority, first.caller, first.ask.task) == (9, "127.0.0.1", Task.CHAT)
    assert (second.priority, second.ask.prompt_bytes) == (5, 2)
    assert first.ask.conversation != second.ask.conversation


async def test_a_caller_over_ipv6_is_known_by_its_address(node: SimNode) -> None:
    async with running_gateway(node.url, server={"host": "::1"}) as running:
        watch = watched(running)
        port = running.url.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://[::1]:{port}") as client:
            await client.post("/api/chat", json=CHAT)
    assert watch.requests[0].caller == "::1"


@pytest.mark.parametrize(
    ("raw", "forwarded", "priority"),
    [
        (b'{"model":"m", "priority": 8 ,"messages":[],"x" : 1.50}', b'{"model":"m","messages":[],"x":1.50}', 8),
        (b'{"model":"m","Priority":1,"messages":[],"PRIORITY":2}', b'{"model":"m","messages":[]}', 2),
        (b'{"model":"m", "priority": 11,"messages":[]}', None, 5),
        (b'{"model":"m", "priority":"8","messages":[]}', None, 5),
        (b'{"model":"m", "messages":[]} ', None, 5),
    ],
)  # fmt: skip
async def test_only_a_priority_of_ours_is_taken_out_of_a_body(
    node: SimNode, client: httpx.AsyncClient, raw: bytes, forwarded: bytes | None, priority: int
) -> None:
    async with running_gateway(node.url) as running:
        watch = watched(running)
        await client.post(f"{running.url}/api/chat", content=raw)
        assert watch.requests[0].priority == priority
    assert bodies(node) == [raw if forwarded is None else forwarded]


async def test_a_long_body_without_its_priority_lies_in_a_file_as_before(
    node: SimNode, client: httpx.AsyncClient
) -> None:
    body = {**CHAT, "priority": 2, "pad": "x" * 2 * SPOOL_BYTES}
    async with running_gateway(node.url) as running:
        answer = await client.post(f"{running.url}/api/chat", json=body)
        assert answer.status_code == 200
    (seen,) = bodies(node)
    assert json.loads(seen) == {name: body[name] for name in body if name != "priority"}


@pytest.mark.parametrize(
    ("header", "value"), [("X-Sollol-Priority", "high"), ("X-Sollol-Deadline", "soon")]
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", CHAT),
        ("/v1/chat/completions", CHAT),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ],
)
async def test_a_wrong_header_is_refused_in_the_callers_dialect(
    node: SimNode,
    client: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    header: str,
    value: str,
) -> None:
    async with running_gateway(node.url) as running:
        long = {**body, "priority": 3, "pad": "x" * 2 * SPOOL_BYTES}
        for sent in (body, long):
            answer = await client.post(f"{running.url}{path}", json=sent, headers={header: value})
            assert answer.status_code == 400
            error = answer.json()["error"]
            text = error if path == "/api/chat" else error["message"]
            assert text.startswith(f"{header} must be")
            assert text.endswith(f'got "{value}"')
    assert not bodies(node, path)


async def occupied(running: RunningGateway, client: httpx.AsyncClient) -> asyncio.Task[Any]:
    """Take the only slot for long."""
    asking = asyncio.create_task(client.post(f"{running.url}/api/generate", json=LONG))
    await wait_for(lambda: running.in_flight == 1)
    return asking


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_deadline_that_passes_in_the_queue_is_a_504(
    client: httpx.AsyncClient, path: str
) -> None:
    async with SimNode(SLOW) as node, running_gateway(node.url) as running:
        busy = await occupied(running, client)
        headers = {"X-Sollol-Deadline": "0.2"}
        late = await client.post(f"{running.url}{path}", json=CHAT, headers=headers)
        assert late.status_code == 504
        assert "retry-after" not in late.headers
        error = late.json()["error"]
        text = error if path == "/api/chat" else error["message"]
        assert text == "the request waited for a slot until its deadline of 0.2 s had passed"
        assert not bodies(node, path)
        busy.cancel()
        await asyncio.wait([busy])


async def test_a_longer_deadline_does_not_lengthen_the_wait(client: httpx.AsyncClient) -> None:
    async with (
        SimNode(SLOW) as node,
        running_gateway(node.url, queue={"timeout_s": 0.2}) as running,
    ):
        watch = watched(running)
        busy = await occupied(running, client)
        headers = {"X-Sollol-Deadline": "3600"}
        late = await client.post(f"{running.url}/api/chat", json=CHAT, headers=headers)
        assert late.status_code == 504
        assert "no slot became free" in late.json()["error"]
        request = watch.requests[-1]
        assert request.expires_at == pytest.approx(request.arrived_at + 0.2)
        busy.cancel()
        await asyncio.wait([busy])


async def test_no_node_begins_after_the_deadline(node: SimNode, client: httpx.AsyncClient) -> None:
    async with running_gateway(node.url) as running:
        headers = {"X-Sollol-Deadline": "0.000001"}
        answer = await client.post(f"{running.url}/api/chat", json=CHAT, headers=headers)
        assert answer.status_code == 504
        assert "x-sollol-node" not in answer.headers
    assert not bodies(node)
