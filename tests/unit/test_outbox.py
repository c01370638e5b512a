"""What is put is written in order, soon, and never to a closed connection."""

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import AsyncIterator

from sollol.upstream.outbox import MAX_HELD_BYTES, NO_FD, Outbox, fd_of


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_closed


async def test_pieces_of_a_turn_are_written_in_order_when_it_is_over() -> None:
    one, two, gone = Wire(), Wire(), Wire()
    outbox = Outbox()
    for wire, data in ((one, b"1"), (two, b"2"), (one, b"3"), (gone, b"4")):
        outbox.put(wire, data)
    gone.is_closed = True
    assert (one.written, two.written) == ([], [])
    await asyncio.sleep(0)
    assert (one.written, two.written, gone.written) == ([b"1", b"3"], [b"2"], [])


async def test_what_is_flushed_is_not_written_again() -> None:
    wire = Wire()
    outbox = Outbox()
    outbox.put(wire, b"1")
    outbox.flush()
    outbox.put(wire, b"2")
    assert wire.written == [b"1"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert wire.written == [b"1", b"2"]


async def test_much_is_not_held() -> None:
    wire = Wire()
    outbox = Outbox()
    outbox.put(wire, b"x" * MAX_HELD_BYTES)
    outbox.put(wire, b"y")
    assert sum(map(len, wire.written)) == MAX_HELD_BYTES + 1


@contextlib.asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """Give a transport and the socket at its other end, which does not block."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    try:
        yield transport, theirs
    finally:
        transport.abort()
        theirs.close()
        await asyncio.sleep(0)


async def received(theirs: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        data += await loop.sock_recv(theirs, 1 << 20)
    return data


def is_there(theirs: socket.socket) -> bool:
    return bool(select.select([theirs], [], [], 0)[0])


async def test_a_lone_piece_is_sent_before_the_turn_is_over() -> None:
    outbox = Outbox()
    async with socket_pair() as (transport, theirs):
        fd = fd_of(transport)
        for piece in (b"1", b"2"):
            outbox.put(transport, piece, fd)
            assert theirs.recv(9) == piece
            await asyncio.sleep(0)


async def test_pieces_after_the_first_and_those_of_the_next_turn_wait() -> None:
    outbox = Outbox()
    async with socket_pair() as (transport, theirs):
        fd = fd_of(transport)
        outbox.put(transport, b"1", fd)
        outbox.put(transport, b"2", fd)
        assert theirs.recv(9) == b"1"
        assert not is_there(theirs)
        assert await received(theirs, 1) == b"2"
        outbox.put(transport, b"3", fd)
        assert not is_there(theirs)
        assert await received(theirs, 1) == b"3"
        outbox.put(transport, b"4", fd)  # and one turn had no more than one
        assert theirs.recv(9) == b"4"


async def test_what_the_kernel_does_not_take_follows_in_order() -> None:
    outbox = Outbox()
    async with socket_pair() as (transport, theirs):
        fd = fd_of(transport)
        body = bytes(range(256)) * 8192
        for _ in range(3):
            outbox.put(transport, body, fd)
            await asyncio.sleep(0)
        outbox.put(transport, b"end", fd)
        assert await received(theirs, 3 * len(body) + 3) == 3 * body + b"end"


async def test_a_broken_connection_is_left_to_its_transport() -> None:
    outbox = Outbox()
    async with socket_pair() as (transport, theirs):
        theirs.close()
        outbox.put(transport, b"1", fd_of(transport))
        await asyncio.sleep(0)
        transport.abort()
        outbox.put(transport, b"2", fd_of(transport))
        await asyncio.sleep(0)


def test_what_encrypts_or_has_no_socket_is_not_passed_by() -> None:
    assert fd_of(asyncio.Transport()) == NO_FD
    with socket.socket() as some:
        assert fd_of(asyncio.Transport({"socket": some})) == some.fileno()
        encrypted = {"socket": some, "sslcontext": ssl.create_default_context()}
        assert fd_of(asyncio.Transport(encrypted)) == NO_FD
