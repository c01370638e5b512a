"""Stopping: streams end as they should, new callers are refused, what takes too long is told."""

import asyncio
import contextlib
import gc
import hashlib
import json
import socket
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for

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


LONG_GRACE = {"shutdown_grace_s": 600}


@pytest.mark.parametrize("message", ["", "Loading model"])
async def test_who_is_tried_again_and_again_is_told_to_come_again_and_sent_to_no_node(
    message: str,
) -> None:
    full = Fault("status", path="/api/chat", status=503, message=message)
    async with (
        SimNode(NODE) as one,
        SimNode(NODE) as other,
        running_gateway(one.url, other.url, server=LONG_GRACE) as running,
        httpx.AsyncClient(timeout=20) as client,
    ):
        for node in (one, other):
            node.set_fault(full)
        asked = [
            asyncio.ensure_future(client.post(f"{running.url}/api/chat", json=chat(1)))
            for _ in range(3)
        ]

        def sent() -> int:
            return sum(r.path == "/api/chat" for node in (one, other) for r in node.requests)

        await wait_for(lambda: sent() > 6)
        running.gateway.stop()
        before = sent() + running.in_flight  # an attempt that runs may come to its end
        running.server.stop()
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] in ("1", "2")
            assert "the gateway is shutting down" in answer.text
        assert sent() <= before


async def half_sent(running: RunningGateway, path: str) -> tuple[bytes, asyncio.StreamWriter]:
    """Begin a request of which the body does not come; stop; return what is answered."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{"
    writer.write(head.encode())
    await wait_for(lambda: len(running.server.server_state.tasks) == 1)
    running.gateway.stop()
    running.server.stop()
    return await asyncio.wait_for(reader.read(), 20), writer


@pytest.mark.parametrize("path", ["/api/chat", "/api/pull", "/api/web_search", "/sollol/v1/nodes"])
async def test_a_body_that_has_not_come_does_not_hold_up_the_end(path: str) -> None:
    async with running_gateway(server=LONG_GRACE) as running:
        answer, writer = await half_sent(running, path)
        assert b" 503 " in answer.splitlines()[0]
        assert b"the gateway is shutting down" in answer
        assert b"\r\nretry-after: " in answer
        writer.close()


async def test_a_blob_that_is_on_its_way_to_a_node_may_come_to_its_end() -> None:
    content = b"x" * 1000
    path = "/api/blobs/sha256:" + hashlib.sha256(content).hexdigest()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    async with SimNode(NODE) as node, running_gateway(node.url, server=LONG_GRACE) as running:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + content[:500])
        await wait_for(lambda: len(running.server.server_state.tasks) == 1)
        running.gateway.stop()
        running.server.stop()
        await wait_for(lambda: not running.server.servers or not running.server.servers[0].sockets)
        writer.write(content[500:])
        assert b" 201 " in (await asyncio.wait_for(reader.read(), 20)).splitlines()[0]
        writer.close()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
@pytest.mark.parametrize("turns", range(8))
async def test_who_comes_while_it_stops_is_hung_up_on(turns: int) -> None:
    """Whatever the event loop has done of accepting the connection."""
    with socket.socket() as caller:
        async with running_gateway() as running:
            host, port = running.url.removeprefix("http://").split(":")
            caller.connect((host, int(port)))
            for _ in range(turns):
                await asyncio.sleep(0)
            running.server.stop()
        caller.setblocking(False)
        with contextlib.suppress(ConnectionResetError):
            assert caller.recv(1) == b""
    gc.collect()  # warns of a connection that was left open
