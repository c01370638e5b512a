"""The client towards nodes, over real sockets: failures, big and slow bodies, cancelling."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from sollol.errors import ConnectFailed, ProtocolViolation, UpstreamCut, UpstreamTimeout
from sollol.upstream.connection import Connection
from sollol.upstream.http import Timeouts
from sollol.upstream.outbox import Outbox
from tests.scripted_node import (
    HELLO,
    MIB,
    STREAM,
    Peer,
    World,
    a_world,
    body_of,
    fetch,
    never_answer,
    pieces_of,
    post,
    say_hello,
    script_of,
    until,
)

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


# Failures


async def test_a_refused_connection_says_so(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        client = world.connect(f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectFailed) as caught:
            await client.send(post())
    assert str(caught.value).startswith(f"cannot connect to 127.0.0.1:{port}: connection refused")


async def test_an_unknown_host_is_a_failed_connection(world: World) -> None:
    with pytest.raises(ConnectFailed, match=r"cannot connect to node.invalid: "):
        await world.connect("http://node.invalid").send(post())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("wire", [STREAM + b"5\r\nhello\r\n", HELLO.replace(b": 5", b": 6")])
async def test_what_came_before_a_cut_is_read_before_it_is_raised(
    world: World, wire: bytes, how: str
) -> None:
    got_some = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(wire)
        await got_some.wait()
        if how == "reset":
            peer.reset()

    client = await world.client(script)
    response = await client.send(post())
    assert await response.read() == b"hello"
    got_some.set()
    for _ in range(2):
        with pytest.raises(UpstreamCut, match=r"127.0.0.1:\d+ closed .* in the middle"):
            await response.read()
    assert client.statistics().open == 0
    response.close()


async def test_garbage_is_a_violation_wherever_it_comes(world: World) -> None:
    client = await world.client(script_of(b"SSH-2.0-OpenSSH_9.2\r\n"))
    with pytest.raises(ProtocolViolation, match=r"127.0.0.1:\d+ did not answer in proper HTTP"):
        await client.send(post())
    client = await world.client(script_of(STREAM + b"5\r\nhello\r\nxyz\r\n"))
    response = await client.send(post())
    assert await response.read() == b"hello"
    with pytest.raises(ProtocolViolation, match="chunk size"):
        await response.read()
    response.close()


async def test_a_slow_head_times_out(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in HELLO[:60]:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    client = await world.client(script, Timeouts(first_byte_s=0.1, stall_s=0.1))
    with pytest.raises(UpstreamTimeout, match=r"sent no answer within 0.1 s"):
        await client.send(post())
    assert client.statistics().open == 0


async def test_a_stalled_body_times_out(world: World) -> None:
    client = await world.client(script_of(STREAM + b"1\r\na\r\n"), Timeouts(stall_s=0.05))
    response = await client.send(post())
    assert await response.read() == b"a"
    with pytest.raises(UpstreamTimeout, match=r"nothing more of its answer for 0.05 s"):
        await response.read()
    response.close()


async def test_a_long_body_that_moves_does_not_time_out(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(12):
            await peer.send(b"1\r\na\r\n")
            await asyncio.sleep(0.05)
        await peer.send(b"0\r\n\r\n")
        await peer.wait_gone()

    client = await world.client(script, Timeouts(first_byte_s=10.0, stall_s=0.4))
    assert await fetch(client) == b"a" * 12


async def test_a_slow_reader_is_not_the_nodes_stall(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO[:-6].replace(b": 5", b": %d" % (16 * MIB)) + b"\n")
        for _ in range(16):
            await peer.send(b"x" * MIB)
        await peer.wait_gone()

    client = await world.client(script, Timeouts(stall_s=0.1, first_byte_s=0.1))
    response = await client.send(post())
    await until(lambda: response.buffered_bytes > 262_144)
    await asyncio.sleep(0.3)
    assert response.buffered_bytes < MIB
    assert len(await body_of(response)) == 16 * MIB


# Big bodies, and bodies that come slowly


async def test_a_big_answer_is_held_back_while_nobody_reads(world: World) -> None:
    sent_bytes = 0

    async def script(peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.request()
        await peer.send(STREAM)
        for _ in range(1024):
            await peer.send(b"10000\r\n%b\r\n" % (b"x" * 65_536))
            sent_bytes += 65_536
        await peer.send(b"0\r\n\r\n")
        await peer.wait_gone()

    client = await world.client(script)
    response = await client.send(post())
    await until(lambda: response.buffered_bytes > 262_144)
    received_bytes = most_bytes = 0
    while piece := await response.read():
        received_bytes += len(piece)
        most_bytes = max(most_bytes, len(piece), response.buffered_bytes)
        assert sent_bytes - received_bytes < 32 * MIB
    response.close()
    assert received_bytes == 64 * MIB
    assert most_bytes <= MIB
    assert client.statistics().idle == 1


@pytest.mark.parametrize("length", [None, 64 * MIB])
async def test_a_big_upload_goes_no_faster_than_the_node_takes_it(
    world: World, length: int | None
) -> None:
    yielded_bytes = 0
    may_read = asyncio.Event()
    bodies = []

    async def body() -> AsyncIterator[bytes]:
        nonlocal yielded_bytes
        for _ in range(1024):
            yielded_bytes += 65_536
            yield b"x" * 65_536

    async def script(peer: Peer) -> None:
        await may_read.wait()
        bodies.append((await peer.request())[1])
        await peer.send(HELLO)
        await peer.wait_gone()

    client = await world.client(script)
    sending = asyncio.create_task(fetch(client, post(body(), length)))
    await until(lambda: yielded_bytes > 0)
    seen_bytes = 0
    while seen_bytes != yielded_bytes:  # until it stands still
        seen_bytes = yielded_bytes
        await asyncio.sleep(0.05)
    assert yielded_bytes < 32 * MIB
    may_read.set()
    assert await sending == b"hello"
    assert bodies == [b"x" * 64 * MIB]
    assert client.statistics().idle == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_early_answer_ends_the_upload(world: World, streamed: bool) -> None:
    drawn = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal drawn
        while True:
            drawn += 1
            yield b"x" * 65_536

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(TOO_LARGE)
        peer.writer.write_eof()  # as Go's server does, which then waits before it resets
        await client_is_done.wait()

    client_is_done = asyncio.Event()
    client = await world.client(script)
    body = endless()
    response = await client.send(post(body if streamed else b"x" * 64 * MIB))
    assert response.status == 413
    drawn_before = drawn
    assert await response.read() == b"no!"
    assert await response.read() == b""
    assert drawn == drawn_before
    response.close()
    assert client.statistics().open == 0
    await body.aclose()
    client_is_done.set()


async def test_an_early_answer_counts_though_the_iterator_waits(world: World) -> None:
    stopped = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(TOO_LARGE)
        await peer.wait_gone()

    client = await world.client(script)
    assert await fetch(client, post(body())) == b"no!"
    assert stopped.is_set()
    assert client.statistics().open == 0


async def test_an_answer_counts_though_the_connection_breaks_while_sending(world: World) -> None:
    got_head = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(TOO_LARGE)
        await got_head.wait()
        peer.reset()

    client = await world.client(script)
    response = await client.send(post(b"x" * 64 * MIB))
    got_head.set()
    await until(lambda: client.statistics().open == 0)
    assert await body_of(response) == b"no!"


async def test_the_error_of_a_body_is_raised_and_ends_the_request(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("the caller left")

    client = await world.client(never_answer)
    with pytest.raises(LookupError, match="the caller left"):
        await client.send(post(body()))
    assert client.statistics().open == 0


async def test_a_body_that_is_cancelled_by_itself_ends_the_request(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise asyncio.CancelledError

    client = await world.client(never_answer)
    with pytest.raises(asyncio.CancelledError):
        await client.send(post(body()))
    assert client.statistics().open == 0


async def test_a_body_that_fails_when_it_is_stopped_does_not_spoil_the_answer(
    world: World,
) -> None:
    got_head = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("in its end")

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(TOO_LARGE[:-3])
        await got_head.wait()
        await peer.send(TOO_LARGE[-3:])
        await peer.wait_gone()

    client = await world.client(script)
    response = await client.send(post(body()))
    got_head.set()
    assert await body_of(response) == b"no!"


@pytest.mark.parametrize("length", [1, 3])
async def test_a_body_of_another_length_is_refused(world: World, length: int) -> None:
    client = await world.client(never_answer)
    with pytest.raises(ValueError, match="body"):
        await client.send(post(pieces_of(b"a", b"b"), length))
    assert client.statistics().open == 0


async def test_an_empty_piece_does_not_end_a_chunked_body(world: World) -> None:
    bodies = []

    async def script(peer: Peer) -> None:
        bodies.append((await peer.request())[1])
        await peer.send(HELLO)
        await peer.wait_gone()

    client = await world.client(script)
    await fetch(client, post(pieces_of(b"a", b"", b"b")))
    assert bodies == [b"ab"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_node_that_hangs_up_while_we_send_is_noticed_at_once(
    world: World, streamed: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write_eof()
        await client_is_done.wait()

    client_is_done = asyncio.Event()
    client = await world.client(script)
    body = b"x" * 64 * MIB
    with pytest.raises(UpstreamCut, match="without an answer"):
        await client.send(post(pieces_of(body) if streamed else body))
    client_is_done.set()


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upload_that_the_node_does_not_take_times_out(
    world: World, streamed: bool
) -> None:
    async def script(peer: Peer) -> None:
        await asyncio.sleep(0.05)
        await peer.reader.readexactly(4 * MIB)
        await client_is_done.wait()

    client_is_done = asyncio.Event()
    client = await world.client(script, Timeouts(first_byte_s=60, stall_s=0.1))
    body = b"x" * 64 * MIB
    with pytest.raises(UpstreamTimeout, match=r"took nothing more of the request for 0.1 s"):
        await client.send(post(pieces_of(body) if streamed else body))
    client_is_done.set()


async def test_a_slow_upload_that_moves_does_not_time_out(world: World) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        for _ in range(8):
            await peer.reader.readexactly(4 * MIB)
            await asyncio.sleep(0.1)
        await peer.send(HELLO)
        await peer.wait_gone()

    client = await world.client(script, Timeouts(first_byte_s=0.5, stall_s=0.5))
    assert await fetch(client, post(b"x" * 32 * MIB)) == b"hello"


async def test_a_body_that_comes_slowly_is_not_the_nodes_fault(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a" * 16 * MIB
        await asyncio.sleep(0.3)
        yield b"b"

    client = await world.client(say_hello, Timeouts(first_byte_s=0.1, stall_s=0.1))
    assert await fetch(client, post(body())) == b"hello"


# Cancelling


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("reused", [False, True])
async def test_a_request_may_be_cancelled_at_any_moment(
    world: World, reused: bool, streamed: bool
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HELLO[:-2])
            await peer.send(HELLO[-2:])

    client = await world.client(script)
    for steps in range(25):
        if reused:
            await fetch(client)
        body = pieces_of(b"a", b"b") if streamed else b"ab"
        task = asyncio.create_task(fetch(client, post(body)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.result() == b"hello"
        statistics = client.statistics()
        assert statistics.open == statistics.idle
    await until(lambda: world.nodes[0].now_open == client.statistics().open)
    assert await fetch(client) == b"hello"


async def test_a_connection_made_after_all_is_closed(world: World) -> None:
    node = await world.node(Peer.wait_gone)
    connection = Connection("node", Timeouts(), Outbox(), lambda _: None)
    connection.abort()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: connection, "127.0.0.1", node.port)
    await connection.lost


@pytest.mark.parametrize("phase", ["head", "body", "upload"])
async def test_cancelling_closes_the_connection(world: World, phase: str) -> None:
    at_phase = asyncio.Event()

    async def script(peer: Peer) -> None:
        if phase == "upload":
            await peer.reader.readuntil(b"\r\n\r\n")
            await at_phase.wait()
        else:
            await peer.request()
        if phase == "body":
            await peer.send(STREAM)
        at_phase.set()
        await peer.wait_gone()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield b"x" * 65_536
            at_phase.set()

    client = await world.client(script)
    task = asyncio.create_task(fetch(client, post(endless() if phase == "upload" else b"")))
    await at_phase.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert client.statistics().open == 0
    await until(lambda: world.nodes[0].now_open == 0)


async def test_cancelling_a_read_closes_the_connection(world: World) -> None:
    client = await world.client(script_of(STREAM))
    response = await client.send(post())
    task = asyncio.create_task(response.read())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert client.statistics().open == 0
    with pytest.raises(UpstreamCut, match="the gateway closed its connection"):
        await response.read()
    response.close()
