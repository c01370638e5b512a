"""What a hostile or merely odd caller does to the protocol."""

import asyncio
import socket
from contextlib import suppress

import pytest

from sollol.api.request import split_target
from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway, wait_for
from tests.one_model import CLOSE, MODEL, gateway, generate, port_of
from tests.raw_http import render, talk

pytestmark = pytest.mark.sim

VERSION = render("GET", "/api/version")
UNKNOWN = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
H2C = {
    "Connection": "Upgrade, HTTP2-Settings",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
}


async def exchange(running: RunningGateway, *pieces: bytes, quiet_s: float = 0.5) -> bytes:
    """Send pieces as segments of their own; return all that comes until nothing more does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with suppress(TimeoutError, ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        while data := await asyncio.wait_for(reader.read(65_536), quiet_s):
            received += data
    writer.close()
    return received


def unread_socket(running: RunningGateway) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", port_of(running)))
    sock.setblocking(False)
    return sock


def count(answer: bytes) -> int:
    return answer.count(b"HTTP/1.1 ")


async def test_java_offers_h2c_with_every_request_of_a_connection() -> None:
    post = render("POST", "/api/generate", b'{"model":"nope"}', headers=H2C)
    get = render("GET", "/api/version", headers=H2C)
    async with gateway() as running:
        answer = await exchange(running, post, post, get, get)
    assert b"400 Bad Request" not in answer
    assert count(answer) == 4


async def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async with gateway(server={"write_timeout_s": 20}) as running:
        sock = unread_socket(running)
        loop = asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(sock, UNKNOWN * 200_000))
        held = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while held < 1_000_000:
                    await asyncio.sleep(0.01)
                    for connection in running.server.server_state.connections:
                        held = max(held, connection._transport.get_write_buffer_size())  # type: ignore[union-attr]
        sending.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await sending
        sock.close()
    assert held < 1_000_000


@pytest.mark.parametrize("last", [False, True])
async def test_the_last_answer_that_nobody_reads_is_given_up(last: bool) -> None:
    limits = {"write_timeout_s": 0.3, "keep_alive_s": 0.3, "header_timeout_s": 0.3}
    body = generate(400_000, stream=False)
    async with gateway(server=limits) as running:
        sock = unread_socket(running)
        request = render("POST", "/api/generate", body, headers=CLOSE if last else {})
        await asyncio.get_running_loop().sock_sendall(sock, request)
        connections = running.server.server_state.connections
        await wait_for(lambda: any(c._transport.get_write_buffer_size() for c in connections))  # type: ignore[union-attr]
        await wait_for(lambda: not connections)
        sock.close()


async def test_a_trailer_without_an_end_is_bounded() -> None:
    head = render("POST", "/api/show", headers={"Transfer-Encoding": "chunked"})
    head = head.replace(b"Content-Length: 0\r\n", b"")
    async with gateway() as running:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(head + b"0\r\nX: ")
        with pytest.raises(ConnectionError):
            for _ in range(160):
                writer.write(b"a" * 65_536)
                await writer.drain()
        writer.close()


@pytest.mark.parametrize("where", ["body", "header", "target"])
async def test_the_word_upgrade_does_not_keep_a_connection_open(where: str) -> None:
    headers = {"Upgrade-Insecure-Requests": "1", **CLOSE} if where == "header" else CLOSE
    body = b'{"model":"nope","prompt":"upgrade"}' if where == "body" else b'{"model":"nope"}'
    path = "/api/generate?upgrade" if where == "target" else "/api/generate"
    async with gateway() as running:
        request = render("POST", path, body, headers=headers)
        answer = await talk(port_of(running), request, quiet_s=0.5)
    assert (answer.status, answer.ending) == (404, "eof")


async def test_where_segments_end_does_not_change_what_a_request_is() -> None:
    hidden = render("GET", "/api/tags")
    head = b"POST /nope HTTP/1.1\r\nHost: localhost\r\nX: a "
    rest = b"upgrade: z\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden
    async with gateway() as running:
        assert count(await exchange(running, head + rest)) == 1
        assert count(await exchange(running, head, rest)) == 1


async def test_a_body_after_a_split_head_is_not_edited() -> None:
    body = b"upgrade: x\r\n" + b" " * 20
    request = render("POST", "/api/generate", body)
    cut = request.index(b"\r\n\r\n") + 2
    async with gateway() as running:
        whole = await exchange(running, request, VERSION)
        split = await exchange(running, request[:cut], request[cut:], VERSION)
    assert count(whole) == count(split) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        (b"CONNECT /x HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upg",
            b"rade\r\nUpg",
            b"rade: x\r\n\r\n",
        ),
        (UNKNOWN + render("GET", "/health", headers={"Connection": "Upgrade", "Upgrade": "x"}),),
    ],
    ids=["connect", "split", "pipelined"],
)
async def test_a_connection_that_takes_no_more_requests_says_so(pieces: tuple[bytes, ...]) -> None:
    async with gateway() as running:
        answer = await exchange(running, *pieces, VERSION)
    assert b'"version"' in answer or b"connection: close" in answer.lower()


async def test_a_caller_with_a_second_request_leaves_the_queue_when_it_leaves() -> None:
    config = SimConfig(models=(MODEL,), chunk_interval_s=0.05)
    async with SimNode(config) as node, running_gateway(node.url) as running:
        _, first = await asyncio.open_connection("127.0.0.1", port_of(running))
        first.write(render("POST", "/api/generate", generate(1000)))
        await wait_for(lambda: running.in_flight == 1)
        _, second = await asyncio.open_connection("127.0.0.1", port_of(running))
        second.write(render("POST", "/api/generate", generate(1000)) * 2)
        await wait_for(lambda: running.queued == 1)
        second.close()
        try:
            await wait_for(lambda: running.queued == 0, timeout_s=2)
        finally:
            first.close()


async def test_a_body_that_was_never_asked_for_is_not_waited_for() -> None:
    head = render("POST", "/nope", headers={"Expect": "100-continue"})
    head = head.replace(b"Content-Length: 0", b"Content-Length: 1000")
    async with gateway() as running:
        answer = await exchange(running, head, VERSION)
    assert b'"version"' in answer or b"connection: close" in answer


async def test_a_refused_body_that_has_come_ends_the_connection() -> None:
    request = render("POST", "/nope", b"x" * 2000, headers=CLOSE)
    async with gateway() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(request[:-1000])
        await reader.readuntil(b"404 page not found")
        writer.write(request[-1000:])
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()


async def test_long_targets_are_not_remembered() -> None:
    split_target.cache_clear()
    async with gateway() as running:
        for number in range(20):
            target = f"/{number}" + "x" * 50_000
            await talk(port_of(running), render("GET", target, headers=CLOSE))
    assert split_target.cache_info().currsize * 50_000 < 500_000


async def test_a_caller_who_has_said_all_still_reads_what_is_answered_at_once() -> None:
    async with gateway() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(VERSION)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    assert count(answer) == 1
    assert answer.endswith(b'"}')


async def test_a_caller_who_has_said_all_and_waits_for_a_model_is_gone() -> None:
    async with gateway() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(render("POST", "/api/generate", generate(1_000_000)))
        writer.write_eof()
        await reader.read()
        writer.close()
        await wait_for(lambda: running.in_flight == 0)


async def test_requests_without_end_are_refused() -> None:
    async with gateway() as running:
        answer = await exchange(
            running, render("POST", "/api/generate", generate(10)) + UNKNOWN * 2000
        )
    assert count(answer) < 300


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"1.2"])
async def test_other_versions_are_refused(version: bytes) -> None:
    async with gateway() as running:
        answer = await exchange(running, b"GET / HTTP/" + version + b"\r\nHost: localhost\r\n\r\n")
    assert answer.split(b" ")[1] in (b"400", b"505")
