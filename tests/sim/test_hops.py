"""Gateways that are nodes of each other: no request goes round."""

from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.types import NodeState
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
CONFIG = SimConfig(models=(SimModel(MODEL),))
MESSAGES = [{"role": "user", "content": "hi"}]
STRICT: dict[str, Any] = {"failover": {"eject_after": 1}}


async def ask(
    url: str, path: str = "/api/chat", via: list[str] | None = None, **more: Any
) -> httpx.Response:
    body = {"model": MODEL, "messages": MESSAGES, "stream": False, "max_tokens": 8} | more
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(url + path, json=body, headers=[("Via", v) for v in via or ()])


async def join(running: RunningGateway, url: str, name: str) -> None:
    """Make a server a node of a gateway, and wait until it knows its models."""
    async with httpx.AsyncClient(timeout=20) as client:
        body = {"url": url, "name": name}
        assert (await client.post(f"{running.url}/sollol/v1/nodes", json=body)).is_success
    registry = running.gateway.registry
    await wait_for(lambda: any(v.id == name and v.models for v in registry.views()))


def sent_via(node: SimNode, path: str = "/api/chat") -> list[list[str]]:
    """Return the lines of ``Via`` that came with each request."""
    return [
        [_text(value) for name, value in record.raw_headers if _text(name) == "via"]
        for record in node.requests
        if record.path == path
    ]


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode()


async def test_every_request_to_a_node_says_who_sent_it_on() -> None:
    async with SimNode(CONFIG) as node, running_gateway(node.url) as running:
        own = f"1.1 {running.gateway.id}"
        await ask(running.url)
        await ask(running.url, via=["1.0 fred", "1.1 sollol-0a"])
        assert sent_via(node) == [[own], ["1.0 fred, 1.1 sollol-0a", own]]
        assert sent_via(node, "/api/tags")[0] == [own]
        async with httpx.AsyncClient(timeout=20) as client:
            await client.post(f"{running.url}/api/pull", json={"model": MODEL})
        assert sent_via(node, "/api/pull") == [[own]]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/api/pull"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_came_back_is_refused(path: str, *, stream: bool) -> None:
    async with SimNode(CONFIG) as node, running_gateway(node.url) as running:
        via = [f"1.1 {running.gateway.id}", "1.1 sollol-0a"]
        answer = await ask(running.url, path, via=via, stream=stream)
        assert answer.status_code == 508
        error = answer.json()["error"]
        assert "came back" in (error if path.startswith("/api") else error["message"])
        assert sent_via(node, path) == []


async def test_a_node_that_would_send_a_request_back_is_not_to_blame() -> None:
    async with SimNode(CONFIG) as one, SimNode(CONFIG) as two:
        one.set_fault(
            Fault("answer", path="/api/chat", status=508, body='{"error":"it came back"}')
        )
        async with running_gateway(one.url, two.url, **STRICT) as running:
            assert {(await ask(running.url)).status_code for _ in range(4)} == {200}
            assert {v.state for v in running.gateway.registry.views()} == {NodeState.HEALTHY}


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_gateways_in_a_ring_serve_what_a_node_has_and_refuse_what_none_has(
    count: int,
) -> None:
    async with (
        SimNode(CONFIG) as node,
        running_gateway({"url": node.url, "name": "real"}, **STRICT) as one,
        running_gateway(healthy=0, **STRICT) as two,
        running_gateway(healthy=0, **STRICT) as three,
    ):
        ring = [one, two, three][:count]
        for at in range(1, count):
            await join(ring[at], ring[at - 1].url, "next")
        await join(one, ring[-1].url, "next")
        for running in ring:
            for _ in range(3):
                assert (await ask(running.url)).status_code == 200
        await one.gateway.membership.remove("real", 0.0)
        for running in ring:
            assert (await ask(running.url)).status_code in (404, 508)
            assert {v.state for v in running.gateway.registry.views()} == {NodeState.HEALTHY}
        for running in ring:
            if running.gateway.registry.find("next"):
                await running.gateway.membership.remove("next", 0.0)
