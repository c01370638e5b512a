"""A node that follows a script over a real socket, and what tests of its client share."""

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sollol.upstream.http import (
    NodeConnections,
    Origin,
    Timeouts,
    UpstreamRequest,
    UpstreamResponse,
)

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 1_048_576


class Peer:
    """A node's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Read a request and return its head and body; EOF raises IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head:
            length = re.search(rb"content-length: (\d+)", head)
            return head, await self.reader.readexactly(int(length[1]) if length else 0)
        pieces = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readexactly(2)
        return head, b"".join(pieces)

    async def send(self, wire: bytes) -> None:
        if self.writer.is_closing():  # uvloop's transports raise RuntimeError here
            raise ConnectionResetError
        self.writer.write(wire)
        await self.writer.drain()

    async def wait_gone(self) -> None:
        """Return when the client has closed the connection."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Node:
    """Runs a script for every connection; the connection ends with the script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.accepted = 0
        self.now_open = 0
        self.failures: list[BaseException] = []
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self, **options: Any) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, **options)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.accepted += 1
        self.now_open += 1
        try:
            await self.script(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            self.now_open -= 1
            writer.transport.abort()
            self.tasks.discard(task)

    async def stop(self) -> None:
        for listener in self.server.sockets:  # asyncio forgets whom it has accepted by half
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(ACCEPTING_TURNS):
            await asyncio.sleep(0)
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await until(lambda: not self.tasks)


ACCEPTING_TURNS = 4
"""Of the event loop: after so many, somebody whom it accepts is served."""


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110, what is awaited here has no event
            await asyncio.sleep(0.001)


def open_sockets() -> int:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sum(link.startswith("socket:") for link in links)


def tasks_beside_the_runner() -> list[str]:
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if not name.startswith("TestRunner.")]  # anyio's own


class World:
    """Nodes and clients of a test; when it ends, nothing may be left of them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.clients: list[NodeConnections] = []

    async def node(self, script: Script, **options: Any) -> Node:
        node = Node(script)
        await node.start(**options)
        self.nodes.append(node)
        return node

    def connect(self, url: str, timeouts: Timeouts | None = None, **rest: Any) -> NodeConnections:
        client = NodeConnections(Origin.parse(url), timeouts or Timeouts(), **rest)
        self.clients.append(client)
        return client

    async def client(
        self, script: Script, timeouts: Timeouts | None = None, **rest: Any
    ) -> NodeConnections:
        node = await self.node(script)
        return self.connect(f"http://127.0.0.1:{node.port}", timeouts, **rest)


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    """Yield a world, and check when the test is over that nothing is left of it."""
    sockets = open_sockets()
    world = World()
    yield world
    in_use = [client.statistics().open - client.statistics().idle for client in world.clients]
    try:
        for client in world.clients:
            await client.aclose()
            assert client.statistics().open == client.statistics().idle == 0
        await until(lambda: sum(node.now_open for node in world.nodes) == 0)
    finally:
        for node in world.nodes:
            await node.stop()
    assert sum(in_use) == 0, "a connection was left"
    assert [error for node in world.nodes for error in node.failures] == []
    await until(lambda: tasks_beside_the_runner() == [])
    await until(lambda: open_sockets() == sockets)


async def say_hello(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(HELLO)


async def never_answer(peer: Peer) -> None:
    await peer.request()
    await peer.wait_gone()


def script_of(*wires: bytes, then: str = "wait") -> Script:
    """Return a script: answer one request with these bytes, then wait for the client or end."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for wire in wires:
            await peer.send(wire)
        if then == "wait":
            await peer.wait_gone()
        elif then == "reset":
            peer.reset()
        else:
            peer.writer.close()
            await peer.wait_gone()

    return script


def post(body: bytes | AsyncIterator[bytes] = b"{}", length: int | None = None) -> UpstreamRequest:
    return UpstreamRequest("POST", "/api/chat", [(b"accept", b"*/*")], body, length)


async def body_of(response: UpstreamResponse) -> bytes:
    try:
        return await response.read_all(100 * MIB)
    finally:
        response.close()


async def fetch(client: NodeConnections, request: UpstreamRequest | None = None) -> bytes:
    return await body_of(await client.send(request or post()))


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
