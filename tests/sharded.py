"""Gateways whose models run over several scripted workers, and what tests ask them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from sollol.sharding.memory import MemoryModel, RunOptions
from sollol.sharding.models import read_model
from tests.gateways import RunningGateway, running_gateway
from tests.shards import ScriptedWorkers, Store

CONTEXT = 512


def whole_bytes(store: Store) -> int:
    """What a worker needs that holds all of a model."""
    facts = read_model("one", [store.root]).facts
    return MemoryModel(facts, RunOptions(CONTEXT)).device(0, len(facts.units)).total_bytes


@asynccontextmanager
async def sharding(
    store: Store, workers: ScriptedWorkers, *nodes: Any, **groups: Any
) -> AsyncIterator[tuple[RunningGateway, httpx.AsyncClient]]:
    own = {"workers": workers.settings, "store": str(store.root), "context_length": CONTEXT}
    groups["sharding"] = own | groups.get("sharding", {})
    async with running_gateway(*nodes, workers=workers, **groups) as running:
        async with httpx.AsyncClient(
            base_url=running.url, timeout=20, trust_env=False, verify=False
        ) as client:
            yield running, client
    assert all(made.is_stopped for made in workers.made)


async def chat(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    return await client.post("/api/chat", json=body | fields)


async def shards(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    told = (await client.get("/sollol/v1/shards")).json()["shards"]
    return {shard["model"]: shard for shard in told}


def users_of(running: RunningGateway) -> list[int]:
    """How many requests each model over several workers has."""
    assert running.gateway.shards is not None
    return [shard.users for shard in running.gateway.shards.all()]
