"""Long bodies of requests that wait: they lie in files, and the memory holds none of them."""

import asyncio
import json
import sys
import tracemalloc

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.fleets import a_fleet
from tests.gateways import running_gateway, wait_for

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress

pytestmark = pytest.mark.sim

MIB = 1024 * 1024
WAITING = 8
BODY = json.dumps({"model": "m", "prompt": "x", "max_tokens": 500, "pad": "x" * (8 * MIB)}).encode()


async def test_what_nodes_work_on_is_not_in_memory() -> None:
    slow = SimConfig(time_scale=1.0)
    async with a_fleet(slow) as fleet:
        tracemalloc.start()
        try:
            asking = [
                asyncio.create_task(fleet.client.post("/api/pull", content=BODY))
                for _ in range(WAITING)
            ]
            (node,) = fleet.nodes
            await wait_for(lambda: node.in_flight == WAITING, timeout_s=30)
            sizes = [trace.size for trace in tracemalloc.take_snapshot().traces]
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        finally:
            tracemalloc.stop()
    # One each is that of the simulated node.
    assert sum(size >= len(BODY) for size in sizes) <= WAITING


@pytest.mark.parametrize("is_compressed", [False, True])
async def test_what_waits_is_not_in_memory(is_compressed: bool) -> None:
    content = compress(BODY) if is_compressed else BODY
    headers = {"Content-Encoding": "zstd"} if is_compressed else {}
    async with (
        SimNode(SimConfig(models=(SimModel("m"),), time_scale=1.0)) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url, timeout=30) as client,
    ):
        tracemalloc.start()
        try:
            asking = [
                asyncio.create_task(
                    client.post("/v1/completions", content=content, headers=headers)
                )
                for _ in range(WAITING + 1)
            ]
            await wait_for(lambda: running.queued == WAITING, timeout_s=30)
            held_bytes, _ = tracemalloc.get_traced_memory()
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        finally:
            tracemalloc.stop()
    # The node's own copies are among them: of one request, received and parsed.
    assert held_bytes < 5 * len(BODY)
