"""A TCP relay in front of a node, which cuts a stream off after so many events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.scripted_node import Node, Peer


class CuttingRelay:
    """``cut_after`` is how many events of the next stream get through; None for all of them.

    Attributes:
        cuts: streams that were cut off.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.node = Node(self._carry)
        self.cut_after: int | None = None
        self.cuts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.node.port}"

    async def _carry(self, peer: Peer) -> None:
        """Carry one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.ensure_future(_copy(peer.reader, writer))
        try:
            await self._answer(reader, peer)
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        """Pass answers on up to the event that is too much."""
        passed = bytearray()
        while data := await reader.read(65_536):
            before = len(passed)
            passed += data
            end = self._cut_at(bytes(passed))
            if end is not None:
                await peer.send(bytes(passed[before:end]))
                self.cuts += 1
                self.cut_after = None
                return
            await peer.send(data)

    def _cut_at(self, passed: bytes) -> int | None:
        """Return where the first event too many begins, once it is there."""
        if self.cut_after is None or b"text/event-stream" not in passed:
            return None
        at = -1
        for _ in range(self.cut_after + 1):
            at = passed.find(b"data:", at + 1)
            if at < 0:
                return None
        return at


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


@asynccontextmanager
async def cutting_relay(port: int) -> AsyncIterator[CuttingRelay]:
    """Run one on a free port, in front of another of this machine."""
    relay = CuttingRelay(port)
    await relay.node.start()
    try:
        yield relay
    finally:
        await relay.node.stop()
