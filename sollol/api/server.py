"""uvicorn, set up for the gateway: its protocol, its sockets, its way of stopping."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import cast

import structlog
import uvicorn

from sollol.api.door import Door
from sollol.api.protocol import GatewayProtocol, ProtocolLimits, Shared
from sollol.settings import ServerSettings
from sollol.upstream.outbox import Outbox

log = structlog.get_logger()

LAST_WORDS_S = 0.5
ACCEPTS_PER_TURN = 16
"""Callers accepted in one turn of the event loop."""
ACCEPTING_TURNS = 4
"""Of the event loop: after so many, a caller that it has accepted is a connection."""
SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.001, 0.1
"""Between looks at whether all connections have ended; each pause is twice the one before."""
_TICKS_PER_SECOND = 10
"""uvicorn's, which writes the header ``Date`` at every tenth."""


class GatewayServer(uvicorn.Server):
    """Serves an app until told to stop, then lets answers finish.

    Args:
        max_connections: fewer than the settings say, where the system has not enough for those.
    """

    def __init__(
        self, app: object, settings: ServerSettings, max_connections: int | None = None
    ) -> None:
        limits = ProtocolLimits(
            max_header_bytes=settings.max_header_bytes,
            max_headers=settings.max_headers,
            header_timeout_s=settings.header_timeout_s,
            write_timeout_s=settings.write_timeout_s,
            keep_alive_s=settings.keep_alive_s,
        )
        door = Door(max_connections or settings.max_connections)
        shared = Shared(limits, door, Outbox())
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            interface="asgi3",  # which it is not: GatewayProtocol calls it in its own way
            http=partial(GatewayProtocol, shared),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=settings.shutdown_grace_s,  # type: ignore[arg-type]
            backlog=2048,
        )
        super().__init__(config)
        self.is_accepting = asyncio.Event()
        self._is_told_to_stop = asyncio.Event()

    def stop(self) -> None:
        """Stop accepting and let requests end within ``shutdown_grace_s``; again: cancel them.

        What was written to callers by then gets ``LAST_WORDS_S`` to be read.
        """
        if self.should_exit:
            for task in self.server_state.tasks:
                task.cancel()
            asyncio.get_running_loop().call_later(LAST_WORDS_S, self._abort_all)
        self.should_exit = True
        self._is_told_to_stop.set()

    async def main_loop(self) -> None:
        """Write the header ``Date`` anew each second until told to stop; uvicorn's looks every 0.1 s."""
        while not await self.on_tick(_TICKS_PER_SECOND):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._is_told_to_stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody, let answers end within ``shutdown_grace_s``, and cancel what takes longer.

        uvicorn's waits for 0.1 s before it looks whether there is anything to wait for.
        """
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._hang_up()
        except TimeoutError:
            log.warning(
                "answers_cut", count=len(self.server_state.tasks), reason="shutdown_grace_s"
            )
            for task in self.server_state.tasks:
                task.cancel()

    async def _hang_up(self) -> None:
        """Tell all connections to end, those too that were just being accepted, and wait for them."""
        state, pause_s = self.server_state, SHORTEST_LOOK_S
        for _ in range(ACCEPTING_TURNS):
            for connection in list(state.connections):
                connection.shutdown()
            await asyncio.sleep(0)
        while state.connections or state.tasks:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_LOOK_S)
        for server in self.servers:
            await server.wait_closed()

    def _abort_all(self) -> None:
        for connection in list(self.server_state.connections):
            cast(GatewayProtocol, connection).abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``api/serve.py``: uvicorn would raise them again after the drain."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept requests."""
        await super().startup(sockets)
        self.is_accepting.set()


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that ``host`` stands for.

    Args:
        port: 0 takes any free port (one address only).

    Raises:
        OSError: the address is in use, or not one of this machine's.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found[: 1 if port == 0 else None]:
            listeners.append(_listen(family, kind, protocol, address))
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return [again for listener in listeners for again in _multiplied(listener)]


def _multiplied(listener: socket.socket) -> list[socket.socket]:
    """Return a listener and duplicates of it: uvloop accepts one caller of each per loop turn.

    A turn of a busy loop takes tens of milliseconds; with one listener, hundreds of callers who
    come at once would wait seconds for their first byte.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTS_PER_TURN - 1))]


def _listen(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
