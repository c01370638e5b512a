"""A gateway over several simulated nodes, for tests of what changes them."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway

MODEL = SimModel("llama3.2:3b", size_gib=1.0)
NAMES = "abcdefgh"


@dataclass(frozen=True)
class Fleet:
    """``nodes`` are called a, b, c, ... at the gateway."""

    nodes: Sequence[SimNode]
    running: RunningGateway
    client: httpx.AsyncClient

    async def post(self, path: str, body: Any, nodes: str | None = None) -> httpx.Response:
        return await self.client.post(path, json=body, headers=_chosen(nodes))

    async def delete(self, body: Any, nodes: str | None = None) -> httpx.Response:
        return await self.client.request("DELETE", "/api/delete", json=body, headers=_chosen(nodes))

    async def listed(self) -> list[str]:
        """The models that the gateway lists at this moment."""
        answer = await self.client.get("/api/tags")
        return sorted(model["name"] for model in answer.json()["models"])

    def having(self, name: str) -> str:
        """The nodes that have a model, as one word: ``ac``."""
        pairs = zip(NAMES, self.nodes, strict=False)
        return "".join(letter for letter, node in pairs if node.state.models.find(name))

    def asked(self, path: str) -> str:
        """The nodes that saw a request for a path."""
        pairs = zip(NAMES, self.nodes, strict=False)
        return "".join(
            letter for letter, node in pairs if any(r.path == path for r in node.requests)
        )


def _chosen(nodes: str | None) -> dict[str, str]:
    return {} if nodes is None else {"X-Sollol-Nodes": nodes}


def records(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


@contextlib.asynccontextmanager
async def a_fleet(*configs: SimConfig, **groups: Any) -> AsyncIterator[Fleet]:
    """Run nodes and a gateway over them."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(SimNode(config)) for config in configs]
        listed = [{"url": node.url, "name": name} for name, node in zip(NAMES, nodes, strict=False)]
        gateway = running_gateway(*listed, healthy=len(nodes), **groups)
        running = await stack.enter_async_context(gateway)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=running.url, timeout=20)
        )
        yield Fleet(nodes, running, client)
