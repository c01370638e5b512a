"""Connections in memory: what one side writes, the other gets in a later turn of the loop."""

import asyncio
import errno
import socket
from enum import StrEnum
from typing import Any, Protocol

from tests.deterministic.loop import VirtualLoop

BUFFER_BYTES = 65_536


class Reach(StrEnum):
    """What becomes of bytes on the way to a host."""

    OPEN = "open"
    REFUSED = "refused"
    """Nobody listens: connections are refused."""
    LOST = "lost"
    """Who connects hears nothing."""


class Server(Protocol):
    """The far end of connections to a host."""

    reach: Reach
    refused_at: int
    """The tick in which it refused a connection last."""

    def accept(self, wire: "Wire") -> "Listener":
        """Take a connection."""
        ...


class Listener(Protocol):
    """Hears what comes over a connection."""

    def received(self, data: bytes) -> None:
        """Take bytes."""
        ...

    def closed(self) -> None:
        """Hear that the other side has closed; not called after an end from this side."""
        ...


def _descriptor(unconfirmed_bytes: int) -> int:
    """Return a descriptor that the system says has so much to send, or a little more."""
    one, other = socket.socketpair()
    one.send(bytes(unconfirmed_bytes))
    other.detach()
    return one.detach()


class _Socket:
    """Takes options and does nothing with them; tells how much the far end has not confirmed."""

    def __init__(self, unconfirmed_bytes: int) -> None:
        self._descriptor = _descriptor(unconfirmed_bytes)

    def setsockopt(self, *_: object) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        """Return what the system can be asked about."""
        return self._descriptor


_SOCKET, _LOST_SOCKET = _Socket(0), _Socket(BUFFER_BYTES)


class Wire(asyncio.Transport):
    """A connection as a protocol of asyncio sees it; the far end is a :class:`Listener`.

    Attributes:
        is_lost: bytes vanish on the way, in both directions, and never come after all. Once the
            server is back, whoever writes is told that it knows of no such connection.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        protocol: asyncio.Protocol,
        peer: str,
        server: Server | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._peer = peer
        self._server = server
        self._closing = False
        self._paused = False
        self._held: list[bytes] = []
        self.is_lost = False
        self.listener: Listener

    # The near end, as asyncio has it

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a socket that takes options, and who is there.

        It is as if encrypted, so that nobody writes to the descriptor beside it.
        """
        sock = _LOST_SOCKET if self.is_lost else _SOCKET
        return {"socket": sock, "peername": (self._peer, 1), "sslcontext": self}.get(name, default)

    def write(self, data: Any) -> None:
        """Send bytes to the far end."""
        if self._closing:
            return
        if not self.is_lost:
            self._loop.call_soon(self._arrive, bytes(data))
        elif self._server is not None and self._server.reach is Reach.OPEN:
            self._loop.call_soon(self._end, _reset())

    def is_closing(self) -> bool:
        """Whether this end was closed, or the other."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return how much is not sent yet: nothing, as all is taken at once."""
        return 0

    def pause_reading(self) -> None:
        """Hold back what comes."""
        self._paused = True

    def resume_reading(self) -> None:
        """Let come what was held back."""
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self._loop.call_soon(self._deliver, data)

    def close(self) -> None:
        """Close this end; the far end hears of it."""
        self._end(None, tells=True)

    def abort(self) -> None:
        """Close this end at once."""
        self._end(None, tells=True)

    # The far end

    def send(self, data: bytes) -> None:
        """Give bytes to the near end."""
        if not self._closing and not self.is_lost:
            self._loop.call_soon(self._deliver, data)

    def reset(self) -> None:
        """Break the connection off, from the far end."""
        if not self.is_lost:
            self._loop.call_soon(self._end, _reset())

    def drop(self) -> None:
        """End the connection from the far end, in this very moment of this turn."""
        if not self._closing:
            self._closing = True
            self._protocol.connection_lost(None)

    def _arrive(self, data: bytes) -> None:
        if not self.is_lost:
            self.listener.received(data)

    def _deliver(self, data: bytes) -> None:
        if self._closing or self.is_lost:
            return
        if self._paused:
            self._held.append(data)
        else:
            self._protocol.data_received(data)

    def _end(self, error: Exception | None, *, tells: bool = False) -> None:
        if self._closing:
            return
        self._closing = True
        if tells:
            self._loop.call_soon(self._tell_closed)
        self._loop.call_soon(self._protocol.connection_lost, error)

    def _tell_closed(self) -> None:
        if not self.is_lost:
            self.listener.closed()


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class SimulatedNetwork:
    """Connects to servers by their host names."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.servers: dict[str, Server] = {}

    async def connect(self, protocol: asyncio.Protocol, host: str) -> asyncio.Transport:
        """Connect, or do not come back, or raise as the system does."""
        server = self.servers[host]
        if server.reach is Reach.LOST:
            await self._loop.create_future()
        if server.reach is Reach.REFUSED:
            server.refused_at = self._loop.now
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        wire = Wire(self._loop, protocol, host, server)
        wire.listener = server.accept(wire)
        protocol.connection_made(wire)
        return wire
