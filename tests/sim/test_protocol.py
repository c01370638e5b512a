"""HTTP/1.1 as callers speak it, byte by byte, against the gateway."""

import asyncio
import json
import re

import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.one_model import CLOSE, MODEL, gateway, generate, port_of
from tests.raw_http import RawAnswer, render, talk

pytestmark = pytest.mark.sim


async def test_requests_sent_before_their_answers_are_answered_in_order() -> None:
    async with gateway() as running:
        requests = [
            render("POST", "/api/generate", generate(20)),
            render("GET", "/api/version"),
            render("POST", "/api/generate", generate(1, stream=False)),
            render("HEAD", "/api/tags"),
            render("GET", "/nope", headers=CLOSE),
        ]
        answer = await talk(port_of(running), b"".join(requests))
    everything = answer.head + b"\r\n\r\n" + answer.body
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", everything)
    assert statuses == [b"200", b"200", b"200", b"200", b"404"]
    assert everything.index(b'"done":true') < everything.index(b'"version"')
    assert everything.endswith(b"404 page not found")
    assert answer.ending == "eof"


async def test_an_old_caller_gets_a_stream_without_chunks() -> None:
    async with gateway() as running:
        body = generate(5)
        head = b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
        answer = await talk(port_of(running), head + body)
    assert b"transfer-encoding" not in answer.head
    assert b"connection: close" in answer.head
    records = [json.loads(line) for line in answer.body.splitlines()]
    assert records[-1]["done"] is True
    assert answer.ending == "eof"


async def test_a_body_that_waits_to_be_asked_for_is_asked_for_once() -> None:
    async with gateway() as running:
        body = generate(1, stream=False)
        head = render("POST", "/api/generate", headers={"Expect": "100-continue", **CLOSE})
        head = head.replace(b"Content-Length: 0", b"Content-Length: %d" % len(body))
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_refused_request_whose_body_is_not_asked_for_gets_its_answer() -> None:
    async with gateway(server={"max_body_bytes": 10}) as running:
        head = render("POST", "/api/chat", headers={"Expect": "100-continue"})
        head = head.replace(b"Content-Length: 0", b"Content-Length: 1000")
        answer = await talk(port_of(running), head, until=b"max_body_bytes")
    assert answer.status == 413


async def test_the_rest_of_a_refused_body_is_not_the_next_request() -> None:
    async with gateway(server={"max_body_bytes": 10}) as running:
        smuggled = render("GET", "/health", headers=CLOSE)
        first = render("POST", "/api/chat", smuggled)
        answer = await talk(port_of(running), first + render("GET", "/nope", headers=CLOSE))
    everything = answer.head + answer.body
    assert answer.status == 413
    assert everything.count(b"HTTP/1.1 ") == 2
    assert everything.endswith(b"404 page not found")


async def test_a_head_has_the_length_and_no_body() -> None:
    async with gateway() as running:
        answer = await talk(port_of(running), render("HEAD", "/", headers=CLOSE))
    assert (answer.status, answer.body) == (200, b"")
    assert ("content-length", "17") in answer.headers


async def test_an_idle_connection_is_closed() -> None:
    async with gateway(server={"keep_alive_s": 0.2}) as running:
        answer = await talk(port_of(running), render("GET", "/health"))
    assert (answer.status, answer.ending) == (200, "eof")


@pytest.mark.parametrize("target", [b"host:80", b"*", b"http://[", b"/\xff"])
async def test_odd_targets_are_answered(target: bytes) -> None:
    async with gateway() as running:
        answer = await _one(running, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n")
        assert answer.status in (400, 404)
        connect = await _one(running, b"CONNECT host:80 HTTP/1.1\r\nHost: localhost\r\n")
        assert connect.status in (400, 404)


async def test_a_target_is_decoded() -> None:
    async with gateway() as running:
        answer = await _one(running, b"GET /api/%74ags?x=%31 HTTP/1.1\r\nHost: localhost\r\n")
    assert answer.status == 200


async def test_a_caller_who_leaves_takes_its_waiting_requests_along() -> None:
    config = SimConfig(models=(MODEL,), chunk_interval_s=0.05)
    async with SimNode(config) as node, running_gateway(node.url) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(render("POST", "/api/generate", generate(1000)) * 3)
        await wait_for(lambda: running.in_flight == 1)
        writer.close()
        await wait_for(lambda: running.in_flight == 0)
        assert not running.server.server_state.connections


async def _one(running: RunningGateway, head: bytes) -> RawAnswer:
    return await talk(port_of(running), head + b"Connection: close\r\n\r\n")


async def test_one_task_serves_all_requests_of_a_connection_and_ends_with_it() -> None:
    seen = set()
    async with gateway() as running:
        state = running.server.server_state
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        for _ in range(3):
            writer.write(render("GET", "/api/version"))
            await reader.readuntil(b"}")
            (connection,) = state.connections
            seen.add(connection.task)  # type: ignore[union-attr]
            assert not state.tasks  # or a stop would wait for one that only waits for requests
        (task,) = seen
        assert not task.done()
        writer.close()
        await wait_for(task.done)


async def test_after_a_task_that_was_cancelled_another_serves() -> None:
    async with gateway() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        for _ in range(2):
            writer.write(render("GET", "/api/version"))
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            (connection,) = running.server.server_state.connections
            task = connection.task  # type: ignore[union-attr]
            task.cancel()
            await wait_for(task.done)
        writer.close()


async def test_requests_that_come_at_once_leave_turns_to_others() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with gateway() as running:
        last = render("GET", "/api/version", headers=CLOSE)
        counting = asyncio.ensure_future(take_turns())
        answer = await talk(port_of(running), render("GET", "/api/ps") * 60 + last)
        counting.cancel()
    assert answer.body.count(b"HTTP/1.1 200 ") == 60
    assert turns > 60
