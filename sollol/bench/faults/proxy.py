"""A TCP proxy in front of a node that breaks connections and answers on demand.

Example:
    async with SimNode(config) as node, FaultProxy(node.port) as proxy:
        await proxy.set_fault(TcpFault("reset_in_piece", path="/api/chat"))
        ...  # talk to proxy.url
"""

import asyncio
import socket
from collections.abc import Coroutine
from fnmatch import fnmatchcase
from math import inf
from types import TracebackType
from typing import Self

from sollol.bench.faults.answer import NodeAnswer, Request, read_request
from sollol.bench.faults.kinds import Client, TcpFault, break_answer, pass_on

_HOST = "127.0.0.1"
_LIMIT_BYTES = 1 << 24  # of what is held of one side's bytes
_BACKLOG = 128
_FILLERS = 4  # a queue of 0 has room for one connection; the rest are dropped like everybody's


class _Reader(asyncio.StreamReader):
    """A reader that tells when its side has left, also while nobody reads."""

    def __init__(self) -> None:
        super().__init__(_LIMIT_BYTES)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


class FaultProxy:
    """Listens on loopback while the ``async with`` block runs, and leaves nothing behind."""

    def __init__(self, node_port: int, port: int = 0) -> None:
        self.port = port
        self.struck = 0
        """How many requests and connections a fault has hit, but for those a full backlog drops."""
        self._node_port = node_port
        self._fault: TcpFault | None = None
        self._left = inf
        self._server: asyncio.Server | None = None
        self._full: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Return the base URL, without a slash at its end."""
        return f"http://{_HOST}:{self.port}"

    async def set_fault(self, fault: TcpFault) -> None:
        """Switch a fault on, in place of any other; connections that are open stay so."""
        await self.clear_fault()
        self._fault = fault
        self._left = inf if fault.times is None else fault.times
        if fault.kind == "backlog_full":
            self._stop_listening()
            self._full = _full_listener(self.port)

    async def clear_fault(self) -> None:
        """Switch the fault off; what hangs already goes on hanging."""
        self._fault = None
        if self._full:
            self._stop_listening()
            await self._listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._accepted),
            _HOST,
            self.port,
            backlog=_BACKLOG,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for sock in self._full:
            sock.close()
        self._full = []

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection for as long as both sides keep to it."""
        task = asyncio.current_task()
        assert task is not None
        assert isinstance(reader, _Reader)
        self._tasks.add(task)
        try:
            if self._strikes("close_on_accept") is None:
                await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has left, or the proxy is closed
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer, reader.gone)
        request = await read_request(reader)
        from_node, to_node = await asyncio.open_connection(
            _HOST, self._node_port, limit=_LIMIT_BYTES
        )
        try:
            is_reused, goes_on = False, True
            while goes_on:
                fault = self._strikes_request(request, is_reused=is_reused)
                to_node.write(request.raw)
                goes_on = await _until_gone(_exchange(client, from_node, fault), reader.gone)
                is_reused = True
                request = await read_request(reader) if goes_on else request
        finally:
            to_node.transport.abort()

    def _strikes(self, kind: str) -> TcpFault | None:
        fault = self._fault
        return self._strike() if fault is not None and fault.kind == kind else None

    def _strikes_request(self, request: Request, *, is_reused: bool) -> TcpFault | None:
        fault = self._fault
        if fault is None or fault.kind in ("close_on_accept", "backlog_full"):
            return None
        if fault.kind == "close_on_reuse" and not is_reused:
            return None
        return self._strike() if fnmatchcase(request.path, fault.path) else None

    def _strike(self) -> TcpFault | None:
        fault = self._fault
        self.struck += 1
        self._left -= 1
        if self._left <= 0:
            self._fault = None
        return fault


async def _exchange(
    client: Client, from_node: asyncio.StreamReader, fault: TcpFault | None
) -> bool:
    """Bring one answer to the client; return whether the connection may carry another request."""
    answer = await NodeAnswer.read(from_node)
    if fault is not None:
        return await break_answer(client, answer, fault) and not answer.is_last
    await pass_on(client, answer)
    return not answer.is_last


async def _until_gone(exchange: Coroutine[None, None, bool], gone: asyncio.Event) -> bool:
    """Run an exchange, but not for longer than its client is there."""
    running = asyncio.ensure_future(exchange)
    watching = asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        return running.done() and running.result()
    finally:
        running.cancel()
        watching.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)


def _full_listener(port: int) -> list[socket.socket]:
    """Return a listener whose queue is full, and the connections that fill it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_HOST, port))
    listener.listen(0)
    sockets = [listener]
    for _ in range(_FILLERS):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex((_HOST, port))
        sockets.append(filler)
    return sockets
