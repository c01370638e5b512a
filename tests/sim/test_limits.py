"""What a caller may send before it is a request, and how long it may take to do so."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for

pytestmark = pytest.mark.sim


async def talk(running: RunningGateway, *pieces: bytes) -> bytes:
    """Send raw bytes and return all that comes back until the gateway closes."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
    answer = await reader.read()
    writer.close()
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


GET = b"GET /health HTTP/1.1\r\n"
CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (GET + b"Host: localhost\r\n" + CLOSE, 200),
        (GET + CLOSE, 400),
        (GET + b"Host: localhost\r\nHost: localhost\r\n" + CLOSE, 400),
        (GET + b"Host: localhost\r\n" + b"x: y\r\n" * 300 + CLOSE, 431),
        (GET + b"Host: localhost\r\n" + b"x: y\r\n" * 20_000 + CLOSE, 431),
        (GET + b"Host: localhost\r\n" + b"a:\r\n" * 16_000 + CLOSE, 431),
        (GET + b"Host: localhost\r\nx: " + b"y" * 70_000, 431),
        (b"GET /" + b"x" * 70_000, 431),
        (b"\x16\x03\x01\x02", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (GET + b"Host: evil.example\r\n" + CLOSE, 403),
        (GET + b"Host: localhost\r\nOrigin: http://evil.example\r\n" + CLOSE, 403),
    ],
)
async def test_a_head_is_bounded_and_unambiguous(request_bytes: bytes, expected: int) -> None:
    async with running_gateway() as running:
        assert status(await talk(running, request_bytes)) == expected


async def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    async with running_gateway(server={"header_timeout_s": 0.2}) as running:
        for piece in (b"", GET, GET + b"Host: loc"):
            assert status(await talk(running, piece)) == 408


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with running_gateway(server={"body_stall_timeout_s": 0.2}) as running:
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        answer = await talk(running, head + b"Connection: close\r\n\r\n{")
        assert status(answer) == 408
        assert b"no more of the request body came" in answer


async def drip(running: RunningGateway, path: str, length: int, piece: bytes) -> bytes:
    """Send a body piece by piece until there is an answer; return that."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n")
    answering = asyncio.ensure_future(reader.readuntil(b"}"))  # which ends each error
    for _ in range(length // len(piece)):
        if answering.done():
            break
        writer.write(piece)
        await asyncio.sleep(0.01)
    answer = await answering
    writer.close()
    return answer


BLOB = "/api/blobs/sha256:" + "0" * 64


@pytest.mark.parametrize("path", ["/api/chat", "/api/pull", BLOB])
async def test_a_body_that_comes_drop_by_drop_is_not_waited_for(path: str) -> None:
    async with (
        SimNode(SimConfig()) as node,
        running_gateway(node.url, server={"body_stall_timeout_s": 0.3}) as running,
    ):
        answer = await drip(running, path, 60_000, b"x")
        assert status(answer) == 408
        assert b"less than 1024 bytes a second" in answer


async def test_a_body_that_comes_slowly_but_well_may_take_long() -> None:
    async with running_gateway(server={"body_stall_timeout_s": 0.3}) as running:
        answer = await drip(running, "/api/chat", 100 * 200, b"x" * 200)
        assert status(answer) == 400
        assert b"invalid character" in answer


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_long_is_refused(chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100

    async with (
        running_gateway(server={"max_body_bytes": 1000}) as running,
        httpx.AsyncClient() as client,
    ):
        content = pieces() if chunked else b"x" * 3000
        answer = await client.post(f"{running.url}/api/chat", content=content)
        assert answer.status_code == 413
        assert "max_body_bytes" in answer.json()["error"]


async def test_requests_one_after_the_other_on_one_connection() -> None:
    model = SimModel("m")
    async with (
        SimNode(SimConfig(models=(model,))) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client,
    ):
        for _ in range(5):
            assert (await client.get(f"{running.url}/api/tags")).status_code == 200
            unknown = await client.post(f"{running.url}/api/chat", json={"model": "x"})
            assert unknown.status_code == 404
            known = await client.post(f"{running.url}/api/generate", json={"model": "m"})
            assert known.status_code == 200
        assert len(running.server.server_state.connections) == 1


async def test_trailers_are_dropped_and_bounded() -> None:
    head = b"POST /api/show HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running_gateway(server={"max_header_bytes": 2048}) as running:
        late_host = head + b"2\r\n{}\r\n0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(late_host)
        assert b"403" in await reader.readline()
        writer.close()
        endless = head.replace(b"evil.example", b"localhost") + b"2\r\n{}\r\n0\r\n"
        answer = await talk(running, endless + b"a:b\r\n" * 3000)
        assert answer == b"" or status(answer) in (400, 431)


@pytest.mark.parametrize("split", [False, True])
async def test_an_offer_of_another_protocol_does_not_cost_the_body(split: bool) -> None:
    body = b'{"model":"nope"}'
    head = (
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    async with SimNode(SimConfig()) as node, running_gateway(node.url) as running:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head if split else head + body)
        if split:
            await writer.drain()
            writer.write(body)
        assert b" 404 " in await reader.readline()
        await reader.readuntil(b"model 'nope' not found")
        writer.close()


async def test_a_bad_request_is_not_answered_inside_another_answer() -> None:
    config = SimConfig(models=(SimModel("m"),), chunk_interval_s=0.05)
    body = b'{"model":"m","prompt":"go","options":{"num_predict":1000}}'
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with SimNode(config) as node, running_gateway(node.url) as running:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head % len(body) + body)
        await reader.readuntil(b'"done":false}\n')
        writer.write(b"\x00 this is not HTTP\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"HTTP/1.1 400")
        writer.close()


async def test_a_reader_who_reads_nothing_is_given_up() -> None:
    config = SimConfig(models=(SimModel("m"),))
    body = b'{"model":"m","prompt":"go","options":{"num_predict":400000}}'
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with (
        SimNode(config) as node,
        running_gateway(node.url, server={"write_timeout_s": 0.3}) as running,
    ):
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(head % len(body) + body)
        await wait_for(lambda: running.in_flight == 1)
        await wait_for(lambda: running.in_flight == 0)
        await wait_for(lambda: node.in_flight == 0)  # it works for nobody no more
        (seen,) = [one for one in node.requests if one.path == "/api/generate"]
        assert seen.outcome == "aborted"
        async with httpx.AsyncClient() as client:  # the slot is free again
            answer = await client.post(f"{running.url}/api/generate", json={"model": "m"})
        assert answer.status_code == 200
        writer.close()
        del reader
