"""Many slow streams at once: all are carried as they come, and killing the callers leaves nothing."""

import asyncio
import json

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
STREAMS = 500


async def begin(
    running: RunningGateway, tokens: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(
        {"model": MODEL, "prompt": "go on", "options": {"num_predict": tokens}}
    ).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.readuntil(b'"done":false}\n')
    return reader, writer


async def test_streams_flow_side_by_side_and_none_is_held_back() -> None:
    config = SimConfig(models=(SimModel(MODEL),), slots=STREAMS, chunk_interval_s=0.2)
    async with (
        SimNode(config) as node,
        running_gateway({"url": node.url, "slots": STREAMS}) as running,
    ):
        streams = await asyncio.gather(*(begin(running, 30) for _ in range(STREAMS)))
        # Every stream has its first record while none is complete: nothing waits for an end.
        assert running.in_flight == STREAMS
        for reader, writer in streams:
            rest = await reader.readuntil(b"0\r\n\r\n")
            assert b'"done":true' in rest
            writer.close()
        await wait_for(lambda: running.in_flight == 0)


async def test_killing_the_callers_leaves_nothing_in_flight() -> None:
    config = SimConfig(models=(SimModel(MODEL),), slots=STREAMS, chunk_interval_s=0.2)
    async with (
        SimNode(config) as node,
        running_gateway({"url": node.url, "slots": STREAMS}) as running,
    ):
        streams = await asyncio.gather(*(begin(running, 10_000) for _ in range(STREAMS)))
        assert running.in_flight == STREAMS
        for _, writer in streams:
            writer.transport.abort()
        await wait_for(lambda: running.in_flight == 0)
        await wait_for(lambda: node.in_flight == 0)
