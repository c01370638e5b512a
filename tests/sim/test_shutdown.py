"""Stopping: streams end as they should, new callers are refused, what takes too long is told."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
NODE = SimConfig(models=(SimModel(MODEL),), slots=4, chunk_interval_s=0.05)


def chat(tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": "hi"}
    return {"model": MODEL, "messages": [message], "options": {"num_predict": tokens}}


async def test_a_stream_that_fits_the_grace_ends_whole() -> None:
    async with SimNode(NODE) as node, running_gateway(node.url) as running:
        async with httpx.AsyncClient(timeout=20) as client:
            asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(20)))
            await wait_for(lambda: running.in_flight == 1)
            running.server.stop()
            answer = await asked
            assert json.loads(answer.text.splitlines()[-1])["done"] is True
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{running.url}/health")


async def test_a_stream_that_does_not_ends_in_an_error_record() -> None:
    async with (
        SimNode(NODE) as node,
        running_gateway(node.url, server={"shutdown_grace_s": 1}) as running,
        httpx.AsyncClient(timeout=20) as client,
    ):
        asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(10_000)))
        await wait_for(lambda: running.in_flight == 1)
        running.server.stop()
        answer = await asked
        last = json.loads(answer.text.splitlines()[-1])
        assert last == {"error": "the gateway is shutting down"}


async def test_a_second_stop_does_not_wait() -> None:
    async with (
        SimNode(NODE) as node,
        running_gateway(node.url, server={"shutdown_grace_s": 600}) as running,
        httpx.AsyncClient(timeout=20) as client,
    ):
        asked = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(10_000)))
        await wait_for(lambda: running.in_flight == 1)
        running.server.stop()
        running.server.stop()
        assert json.loads((await asked).text.splitlines()[-1])["error"]


async def test_who_waits_is_told_to_come_again_and_who_is_served_ends_well() -> None:
    one_slot = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.02)
    async with (
        SimNode(one_slot) as node,
        running_gateway(node.url, server={"shutdown_grace_s": 20}) as running,
        httpx.AsyncClient(timeout=20) as client,
    ):
        served = asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(20)))
        await wait_for(lambda: running.in_flight == 1)
        asked = [
            asyncio.ensure_future(client.post(f"{running.url}{path}", json=chat(1)))
            for path in ("/api/chat", "/v1/chat/completions")
        ]
        await wait_for(lambda: running.queued == 2)
        running.gateway.stop()
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] in ("1", "2")
            assert "the gateway is shutting down" in answer.text
        assert (await client.get(f"{running.url}/ready")).status_code == 503
        late = await client.post(f"{running.url}/api/chat", json=chat(1))
        assert late.status_code == 503
        running.server.stop()
        assert json.loads((await served).text.splitlines()[-1])["done"] is True
