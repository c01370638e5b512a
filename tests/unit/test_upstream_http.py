"""The client towards nodes, over real sockets: exchanges, the pool, TLS."""

import asyncio
import math
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol.errors import ConnectFailed, ProtocolViolation, UpstreamCut
from sollol.upstream.clock import WaitClock
from sollol.upstream.http import Origin, Timeouts, UpstreamRequest
from sollol.upstream.sockets import unconfirmed_bytes
from tests.scripted_node import (
    HELLO,
    MIB,
    STREAM,
    Peer,
    World,
    a_world,
    body_of,
    fetch,
    pieces_of,
    post,
    say_hello,
    script_of,
    until,
)


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


# Plain exchanges


async def test_an_exchange_and_the_next_on_the_same_connection(world: World) -> None:
    heads = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append(await peer.request())
            await peer.send(HELLO)

    client = await world.client(script)
    response = await client.send(post(b"hi"))
    assert (response.status, response.content_type) == (200, b"text/plain")
    assert response.content_length == 5
    assert response.headers == [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    assert client.statistics().open == 1
    assert client.statistics().idle == 0
    assert await response.read() == b"hello"
    assert await response.read() == b""
    assert await response.read() == b""
    response.close()
    response.close()
    with pytest.raises(RuntimeError, match="closed"):
        await response.read()
    assert await fetch(client, UpstreamRequest("GET", "/", [])) == b"hello"
    statistics = client.statistics()
    assert (statistics.open, statistics.idle) == (1, 1)
    assert (statistics.opened_total, statistics.reused_total) == (1, 1)
    host = b"host: 127.0.0.1:%d\r\n" % world.nodes[0].port
    first = b"POST /api/chat HTTP/1.1\r\n" + host + b"accept: */*\r\ncontent-length: 2\r\n\r\n"
    assert heads == [(first, b"hi"), (b"GET / HTTP/1.1\r\n" + host + b"\r\n", b"")]


@pytest.mark.parametrize("wire", [HELLO, STREAM + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"])
async def test_an_answer_may_come_byte_by_byte(world: World, wire: bytes) -> None:
    client = await world.client(script_of(*[wire[i : i + 1] for i in range(len(wire))]))
    assert await fetch(client) == b"hello"
    assert client.statistics().idle == 1


async def test_pieces_are_readable_as_soon_as_they_are_there(world: World) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in (b"a", b"b"):
            await peer.send((b"" if piece == b"b" else STREAM) + b"1\r\n%b\r\n" % piece)
            await go_on.wait()
        await peer.send(b"2\r\ncd\r\n2\r\nef\r\n0\r\n\r\n")
        await peer.wait_gone()

    client = await world.client(script)
    response = await client.send(post())
    assert await response.read() == b"a"
    go_on.set()
    assert await body_of(response) == b"bcdef"


async def test_a_body_without_a_length_ends_with_the_connection(world: World) -> None:
    client = await world.client(script_of(b"HTTP/1.1 200 OK\r\n\r\nhe", b"llo", then="close"))
    assert await fetch(client) == b"hello"
    assert client.statistics().open == 0


async def test_a_head_request_has_no_body(world: World) -> None:
    async def script(peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            await peer.send(HELLO[:-5] if head.startswith(b"HEAD") else HELLO)

    client = await world.client(script)
    for _ in range(2):
        response = await client.send(UpstreamRequest("HEAD", "/", []))
        assert response.content_length == 5
        assert await body_of(response) == b""
        assert await fetch(client) == b"hello"
    assert client.statistics().opened_total == 1


async def test_a_body_longer_than_wanted_is_refused(world: World) -> None:
    client = await world.client(say_hello)
    response = await client.send(post())
    assert await response.read_all(5) == b"hello"
    response.close()
    response = await client.send(post())
    with pytest.raises(ProtocolViolation, match="longer than 4 bytes"):
        await response.read_all(4)
    response.close()


async def test_a_response_closed_unread_gives_its_connection_back_if_complete(world: World) -> None:
    client = await world.client(say_hello)
    response = await client.send(post())
    await until(lambda: response.buffered_bytes == 5)
    response.close()
    assert client.statistics().idle == 1
    assert await fetch(client) == b"hello"


async def test_closing_an_unfinished_response_closes_the_connection(world: World) -> None:
    client = await world.client(script_of(STREAM + b"1\r\na\r\n"))
    response = await client.send(post())
    assert await response.read() == b"a"
    response.close()
    assert client.statistics().open == 0
    await until(lambda: world.nodes[0].now_open == 0)


# The pool


async def test_many_requests_at_once_leave_only_idle_connections(world: World) -> None:
    client = await world.client(say_hello, Timeouts(connect_s=20))
    bodies = await asyncio.gather(*[fetch(client) for _ in range(500)])
    assert bodies == [b"hello"] * 500
    statistics = client.statistics()
    assert 0 < statistics.open == statistics.idle <= 64
    assert statistics.opened_total + statistics.reused_total == 500


async def test_the_connection_used_last_is_used_first(world: World) -> None:
    async def script(peer: Peer) -> None:
        number = world.nodes[0].accepted
        while True:
            await peer.request()
            await peer.send(HELLO[:-5] + b"%05d" % number)

    client = await world.client(script)
    responses = [await client.send(post()) for _ in range(3)]
    for response in (responses[2], responses[0], responses[1]):
        await response.read()
        response.close()
    assert [await fetch(client) for _ in range(3)] == [b"00002"] * 3


async def test_idle_connections_are_bounded_in_number_and_time(world: World) -> None:
    client = await world.client(say_hello, max_idle=2, idle_s=0.05)
    responses = [await client.send(post()) for _ in range(4)]
    for response in responses:
        await body_of(response)
    assert client.statistics().idle <= 2
    await asyncio.sleep(0.03)
    await fetch(client)  # of the two, this one is idle for longer
    await until(lambda: client.statistics().open == 0)
    await until(lambda: world.nodes[0].now_open == 0)


@pytest.mark.parametrize("news", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_an_idle_connection_with_news_is_dropped(world: World, news: bytes) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await go_on.wait()
        if not news:
            return
        await peer.send(news)
        await peer.wait_gone()

    client = await world.client(script)
    await fetch(client)
    assert client.statistics().idle == 1
    go_on.set()
    await until(lambda: client.statistics().open == 0)
    assert await fetch(client) == b"hello"
    assert client.statistics().opened_total == 2


async def test_bytes_after_an_answer_end_the_connection(world: World) -> None:
    client = await world.client(script_of(HELLO + HELLO))
    assert await fetch(client) == b"hello"
    assert client.statistics().open == 0


@pytest.mark.parametrize("size_bytes", [2, 60_000])
async def test_a_request_is_sent_again_if_its_reused_connection_was_closed_before(
    world: World, size_bytes: int
) -> None:
    loop = asyncio.get_running_loop()
    node = await world.node(say_hello)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = world.connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        fetching = asyncio.create_task(fetch(client))
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            await loop.sock_recv(accepted, MIB)
            await loop.sock_sendall(accepted, HELLO)
            await fetching
        client._origin = Origin.parse(f"http://127.0.0.1:{node.port}")  # of the next connection
        assert await fetch(client, post(bytes(size_bytes))) == b"hello"
    assert node.accepted == 1
    assert client.statistics().reused_total == 1


@pytest.mark.parametrize(("how", "size_bytes"), [("close", 2), ("close", MIB), ("reset", MIB)])
async def test_a_request_is_not_sent_again_once_the_node_had_it(
    world: World, how: str, size_bytes: int
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        if how == "reset":
            peer.reset()

    client = await world.client(script)
    await fetch(client)
    with pytest.raises(UpstreamCut, match="without an answer"):
        await client.send(post(bytes(size_bytes)))
    assert world.nodes[0].accepted == 1


def test_where_the_system_does_not_say_what_was_confirmed_all_of_it_was() -> None:
    with open(os.devnull) as no_socket:
        assert unconfirmed_bytes(no_socket) == 0  # type: ignore[arg-type]


async def test_a_request_is_not_sent_again_from_a_fresh_connection(world: World) -> None:
    client = await world.client(script_of(then="close"))
    with pytest.raises(UpstreamCut, match="without an answer"):
        await client.send(post())
    assert world.nodes[0].accepted == 1


async def test_a_request_is_not_sent_again_once_an_answer_has_begun(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        await peer.send(b"HTTP/1.1 2")

    client = await world.client(script)
    await fetch(client)
    with pytest.raises(UpstreamCut, match="without an answer"):
        await client.send(post())
    assert world.nodes[0].accepted == 1


async def test_a_body_that_cannot_be_sent_twice_gets_a_fresh_connection(world: World) -> None:
    client = await world.client(say_hello)
    await fetch(client)
    assert await fetch(client, post(pieces_of(b"a", b"b"))) == b"hello"
    assert client.statistics().opened_total == 2
    assert client.statistics().idle == 2


async def test_closing_the_pool_ends_idle_and_active_connections(world: World) -> None:
    client = await world.client(script_of(STREAM + b"1\r\na\r\n"))
    responses = [await client.send(post()) for _ in range(3)]
    await responses[0].read()
    reads = [asyncio.create_task(response.read()) for response in responses[:2]]
    waiting = asyncio.create_task(client.send(post(pieces_of(b"x"))))
    await asyncio.sleep(0)
    await client.aclose()
    assert client.statistics().open == 0
    results = await asyncio.gather(*reads, waiting, return_exceptions=True)
    assert [type(result) for result in results[:1]] == [UpstreamCut]
    assert isinstance(results[2], ConnectFailed | UpstreamCut)
    with pytest.raises(ConnectFailed, match="given the node up"):
        await client.send(post())
    for response in responses:
        response.close()
    await until(lambda: world.nodes[0].now_open == 0)


async def test_closing_the_pool_while_it_connects_leaves_nothing(world: World) -> None:
    node = await world.node(say_hello)
    for steps in range(12):
        client = world.connect(f"http://127.0.0.1:{node.port}")
        task = asyncio.create_task(fetch(client))
        for _ in range(steps):
            await asyncio.sleep(0)
        await client.aclose()
        await asyncio.wait([task])
        assert isinstance(task.exception(), ConnectFailed | UpstreamCut | None)
        assert client.statistics().open == 0


async def test_closing_the_pool_connects_no_more_for_a_reused_connection(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        await peer.wait_gone()

    client = await world.client(script)
    await fetch(client)
    waiting = asyncio.create_task(client.send(post()))
    await asyncio.sleep(0)  # it is on the idle connection, which a node may have closed
    await client.aclose()
    with pytest.raises(UpstreamCut, match="gateway closed"):
        await waiting
    assert client.statistics().opened_total == 1


async def test_the_clock_takes_any_limit_and_stays_closed() -> None:
    expired: list[None] = []
    clock = WaitClock(asyncio.get_running_loop(), math.inf, lambda: expired.append(None))
    clock.start(math.inf)
    clock.stop()
    clock.close()
    clock = WaitClock(asyncio.get_running_loop(), 0.0, lambda: expired.append(None))
    clock.close()
    clock.start(0.0)
    await asyncio.sleep(0.01)
    assert expired == []


# Sockets and TLS


async def test_sockets_notice_a_node_without_power(world: World) -> None:
    client = await world.client(say_hello)
    await fetch(client)
    (connection,) = client._idle
    assert connection._transport is not None
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=node", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([openssl, *options.split(), *names, *files], check=True, capture_output=True)
    both = folder / "both"
    both.write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return both


async def test_https(world: World, certificate: Path) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    node = await world.node(say_hello, ssl=served)
    trusting = ssl.create_default_context(cafile=str(certificate))
    client = world.connect(f"https://127.0.0.1:{node.port}", ssl_context=trusting)
    for _ in range(2):
        assert await fetch(client, post(b"x" * MIB)) == b"hello"
    assert await fetch(client, post(pieces_of(b"a", b"b"))) == b"hello"
    assert client.statistics().idle == 2
    node.script = script_of(b"HTTP/1.1 200 OK\r\n\r\nhello", then="close")
    client = world.connect(f"https://127.0.0.1:{node.port}", ssl_context=trusting)
    assert await fetch(client) == b"hello"
    node.script = script_of(STREAM + b"5\r\nhello\r\n", then="close")
    with pytest.raises(UpstreamCut, match="in the middle"):
        await fetch(client)
    with pytest.raises(ConnectFailed, match=r"TLS failed: .*certificate verify failed"):
        await world.connect(f"https://127.0.0.1:{node.port}").send(post())


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_connection_that_is_never_made_is_closed(world: World, cancel: bool) -> None:
    node = await world.node(Peer.wait_gone)  # accepts, and never begins the TLS handshake
    client = world.connect(f"https://127.0.0.1:{node.port}", Timeouts(connect_s=0.2))
    task = asyncio.create_task(client.send(post()))
    await until(lambda: node.now_open == 1)
    if cancel:
        task.cancel()
    await asyncio.wait([task])
    if not cancel:
        assert isinstance(task.exception(), ConnectFailed)
        assert "no answer within 0.2 s" in str(task.exception())
    assert client.statistics().open == client.statistics().opened_total == 0
    await until(lambda: node.now_open == 0)
