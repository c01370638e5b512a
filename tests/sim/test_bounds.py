"""What is held at once is bounded: request bodies, and connections of callers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.testing import capture_logs

from sollol.api.door import SPARE
from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.one_model import CLOSE, MODEL, gateway, generate, port_of
from tests.raw_http import render, talk

pytestmark = pytest.mark.sim

MIB = 1024 * 1024


def body(length: int, *, name: str = "m") -> bytes:
    """Return the body of a chat or generate request of any dialect, of a length."""
    message = {"role": "user", "content": "hi"}
    fields = {"model": name, "prompt": "hi", "messages": [message], "max_tokens": 5, "pad": ""}
    short = json.dumps(fields)
    return json.dumps(fields | {"pad": "x" * (length - len(short))}).encode()


@asynccontextmanager
async def busy_gateway(
    **server: int,
) -> AsyncIterator[tuple[RunningGateway, httpx.AsyncClient, SimNode]]:
    """Run one whose only slot is taken until the end."""
    async with (
        SimNode(SimConfig(models=(MODEL,))) as node,
        running_gateway(node.url, server=server) as running,
        httpx.AsyncClient(base_url=running.url, timeout=30) as client,
    ):
        node.set_fault(Fault("hang_before_head", path="/api/generate", times=1))
        first = asyncio.ensure_future(client.post("/api/generate", content=generate(1)))
        await wait_for(lambda: running.in_flight == 1)
        yield running, client, node
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_body_there_is_no_room_for_is_refused_before_it_is_read(path: str) -> None:
    async with gateway({"max_spooled_bytes": 3 * MIB}) as running:
        length = {"Content-Length": str(4 * MIB), "Expect": "100-continue", **CLOSE}
        answer = await talk(port_of(running), render("POST", path, headers=length))
    assert answer.status == 503
    assert dict(answer.headers)["retry-after"] in ("5", "6")
    error = json.loads(answer.body)["error"]
    text = error if path == "/api/chat" else error["message"]
    assert "max_spooled_bytes" in text
    assert (json.loads(answer.body).get("type") == "error") == (path == "/v1/messages")


async def test_a_body_of_unknown_length_is_refused_when_there_is_no_room_for_more() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    async with (
        gateway({"max_spooled_bytes": 2 * MIB}) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/api/chat", content=pieces())
        assert answer.status_code == 503
        assert running.gateway.bodies.file_bytes == 0


async def test_short_bodies_wait_in_files_when_the_memory_for_them_is_full() -> None:
    async with busy_gateway(max_waiting_bytes=4000) as (running, client, node):
        asking = [
            asyncio.create_task(client.post("/api/chat", content=body(1000))) for _ in range(6)
        ]
        await wait_for(lambda: running.queued == 6)
        bodies = running.gateway.bodies
        assert bodies.memory_bytes <= 4000
        assert bodies.file_bytes >= 2000
        node.reset_connections()  # the request that holds the slot fails, the others go on
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 6
        await wait_for(lambda: (bodies.memory_bytes, bodies.file_bytes) == (0, 0))


async def test_what_waits_makes_way_for_a_more_urgent_body() -> None:
    async with busy_gateway(max_spooled_bytes=5 * MIB) as (running, client, _):
        low = asyncio.create_task(client.post("/api/chat", content=body(2 * MIB)))
        other = asyncio.create_task(client.post("/api/chat", content=body(2 * MIB)))
        await wait_for(lambda: running.queued == 2)
        equal = await client.post("/api/chat", content=body(2 * MIB))
        assert equal.status_code == 503
        urgent = asyncio.create_task(
            client.post("/api/chat", content=body(2 * MIB), headers={"X-Sollol-Priority": "9"})
        )
        shed, _ = await asyncio.wait([low, other], return_when=asyncio.FIRST_COMPLETED)
        (refused,) = [task.result() for task in shed]
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"].startswith("server busy, please try again.")
        await wait_for(lambda: running.queued == 2)
        for task in (low, other, urgent):
            task.cancel()
        await asyncio.wait([low, other, urgent])
        await wait_for(lambda: running.gateway.bodies.file_bytes == 0)


async def test_a_wrong_priority_is_told_where_it_would_matter() -> None:
    async with busy_gateway(max_spooled_bytes=0) as (_, client, _):
        headers = {"X-Sollol-Priority": "urgent"}
        answer = await client.post("/api/chat", content=body(2 * MIB), headers=headers)
        assert answer.status_code == 400


async def test_a_changed_body_is_held_and_let_go() -> None:
    models = {"alias": {"alias_of": "m"}}
    async with (
        SimNode(SimConfig(models=(MODEL,))) as node,
        running_gateway(node.url, models=models) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/api/chat", content=body(2 * MIB, name="alias"))
        assert answer.status_code == 200
        bodies = running.gateway.bodies
        await wait_for(lambda: (bodies.memory_bytes, bodies.file_bytes) == (0, 0))


async def idle_connections(running: RunningGateway, count: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection("127.0.0.1", port_of(running)))[1] for _ in range(count)]


async def test_a_connection_too_many_is_told_so_and_closed() -> None:
    async with gateway({"max_connections": 3}) as running:
        port = port_of(running)
        others = await idle_connections(running, 3)
        await wait_for(lambda: len(running.server.server_state.connections) == 3)
        with capture_logs() as logs:
            get = await talk(port, render("GET", "/api/tags"))
            post = await talk(port, render("POST", "/api/chat", body(300_000)))
            two = await talk(port, render("GET", "/api/tags") * 2)
        for answer in (get, post, two):
            assert answer.status == 503
            assert dict(answer.headers)["retry-after"] == "1"
            assert "max_connections" in json.loads(answer.body)["error"]
            assert answer.ending == "eof"
        assert [line["event"] for line in logs] == ["connections_full"]
        for path in ("/health", "/ready", "/metrics"):
            assert (await talk(port, render("GET", path))).status == 200
        for writer in others:
            writer.close()
        await wait_for(lambda: not running.server.server_state.connections)
        assert (await talk(port, render("GET", "/api/tags", headers=CLOSE))).status == 200


async def test_those_far_too_many_are_not_listened_to() -> None:
    async with gateway({"max_connections": 1}) as running:
        others = await idle_connections(running, 1 + SPARE)
        await wait_for(lambda: len(running.server.server_state.connections) == 1 + SPARE)
        answer = await talk(port_of(running), b"")
        assert (answer.status, answer.ending) == (503, "eof")
        assert dict(answer.headers)["retry-after"] == "1"
        for writer in others:
            writer.close()


async def test_a_full_house_is_told_again_once_there_was_room() -> None:
    async with gateway({"max_connections": 2}) as running:
        port = port_of(running)
        with capture_logs() as logs:
            for _ in range(2):
                others = await idle_connections(running, 2)
                await wait_for(lambda: len(running.server.server_state.connections) == 2)
                assert (await talk(port, render("GET", "/api/tags"))).status == 503
                for writer in others:
                    writer.close()
                await wait_for(lambda: not running.server.server_state.connections)
                assert (await talk(port, render("GET", "/health", headers=CLOSE))).status == 200
                await wait_for(lambda: not running.server.server_state.connections)
        assert [line["event"] for line in logs].count("connections_full") == 2
