"""The gateway's HTTP/1.1 client towards nodes: a pool of connections per node.

The hot path of the product: a plain future where one waits, no task except for a streamed
request body, no timer per request. ``request.py`` writes heads, ``connection.py`` moves bytes,
``answer.py`` parses them, ``response.py`` is what callers read.
"""

import asyncio
import ssl
from dataclasses import dataclass

from sollol.errors import UpstreamCut
from sollol.upstream import failures
from sollol.upstream.connection import Connection
from sollol.upstream.outbox import Outbox
from sollol.upstream.request import Origin, Timeouts, UpstreamRequest, encode_head
from sollol.upstream.response import UpstreamResponse
from sollol.upstream.waits import send_stream, within

__all__ = [
    "ConnectionStatistics",
    "NodeConnections",
    "Origin",
    "Timeouts",
    "UpstreamRequest",
    "UpstreamResponse",
]


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Connections of one node: ``open`` and ``idle`` at this moment, the others since the start.

    ``reused_total`` counts requests sent on a connection that had carried another before.
    """

    open: int
    idle: int
    opened_total: int
    reused_total: int


class NodeConnections:
    """The pool of one node, and owner of its sockets.

    It opens as many connections as there are requests at once (the scheduler bounds those) and
    keeps up to ``max_idle`` for the next ones, each for at most ``idle_s`` without use. ``via`` is
    what every request says of who sent it on.
    """

    def __init__(
        self,
        origin: Origin,
        timeouts: Timeouts,
        *,
        max_idle: int = 64,
        idle_s: float = 55.0,
        ssl_context: ssl.SSLContext | None = None,
        via: bytes = b"",
    ) -> None:
        self._origin = origin
        self._via = via
        self._authority = origin.authority
        self._timeouts = timeouts
        self._max_idle = max_idle
        self._idle_s = idle_s
        if origin.scheme == "https" and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self._ssl_context = ssl_context if origin.scheme == "https" else None
        self._open: dict[Connection, None] = {}
        """In the order in which they were opened, which is that of whoever waits for an answer."""
        self._idle: list[Connection] = []
        self._outbox = Outbox()
        self._closing: set[asyncio.Future[None]] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._opened_total = 0
        self._reused_total = 0

    def statistics(self) -> ConnectionStatistics:
        """Return how many connections there are and were."""
        return ConnectionStatistics(
            len(self._open), len(self._idle), self._opened_total, self._reused_total
        )

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and return when the head of the response is there.

        A request that a kept-alive connection did not carry, as the node had closed it, is sent on a
        fresh one. An answer that comes before the body is sent ends the sending. A body that is an iterator
        is not closed here, and goes out on a fresh connection: it cannot be sent again when an
        idle connection turns out to be dead. Cancelling closes the connection.

        Raises:
            ConnectFailed: the node has seen nothing of the request.
            UpstreamCut, UpstreamTimeout, ProtocolViolation: the node's failures; it may have seen
                the request.
            ValueError: the request is not fit to be sent.
            Exception: whatever the iterator of the body raises.
        """
        if self._closed:
            raise failures.connections_closed(self._authority)
        head = encode_head(request, self._origin, self._via)
        idle = self._take_idle() if isinstance(request.body, bytes) else None
        if idle is not None:
            try:
                return await self._exchange(idle, head, request)
            except UpstreamCut:
                if not idle.was_closed_before:
                    raise
        return await self._exchange(await self._connect(), head, request)

    def is_moving(self, within_s: float) -> bool:
        """Whether part of an answer has come in the last seconds: the node is at work."""
        since = asyncio.get_running_loop().time() - within_s
        moved = (connection.moved_at for connection in self._open)
        return any(at is not None and at > since for at in moved)

    def cut_silent(self, within_s: float) -> None:
        """Close what waits for a node that is down, so that another may be asked at once.

        Answers of which part has come in the last ``within_s`` go on: servers that are being stopped
        finish what they have begun. Idle connections are closed too.

        Whoever waits gets :class:`NodeDown`.
        """
        since = asyncio.get_running_loop().time() - within_s
        for connection in list(self._open):
            at = connection.moved_at
            if connection.is_idle or (at is not None and at <= since):
                connection.fail(failures.went_down(self._authority))

    async def aclose(self) -> None:
        """Close all connections, also those in use, and return when their sockets are closed."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in list(self._open):
            connection.abort()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _exchange(
        self, connection: Connection, head: bytes, request: UpstreamRequest
    ) -> UpstreamResponse:
        connection.begin(request)
        try:
            if isinstance(request.body, bytes):
                connection.send_body(head, request.body)
                await connection.wait_head()
            else:
                await send_stream(connection, head, request.body, request.content_length)
        except BaseException:
            connection.abort()
            raise
        return UpstreamResponse(connection, self._give_back)

    async def _connect(self) -> Connection:
        connection = Connection(self._authority, self._timeouts, self._outbox, self._forget)
        try:
            connecting = asyncio.get_running_loop().create_connection(
                lambda: connection, self._origin.host, self._origin.port, ssl=self._ssl_context
            )
            await within(self._timeouts.connect_s, connecting)
        except BaseException as error:
            connection.abort()  # also if it comes about after all
            if isinstance(error, OSError):
                connect_s = self._timeouts.connect_s
                raise failures.connect_failed(self._authority, error, connect_s) from error
            raise
        if self._closed:
            connection.abort()
            raise failures.connections_closed(self._authority)
        self._open[connection] = None
        self._opened_total += 1
        return connection

    def _take_idle(self) -> Connection | None:
        if not self._idle:
            return None
        self._reused_total += 1
        return self._idle.pop()  # the latest used is the least likely to have been closed

    def _give_back(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= self._max_idle or not connection.is_reusable:
            connection.abort()
            return
        connection.rest()
        self._idle.append(connection)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long; the oldest come first."""
        self._sweep_timer = None
        loop = asyncio.get_running_loop()
        while self._idle:
            left_s = self._idle[0].idle_since + self._idle_s - loop.time()
            if left_s > 0:
                self._sweep_timer = loop.call_later(left_s, self._sweep)
                return
            self._idle[0].abort()

    def _forget(self, connection: Connection) -> None:
        """Drop a connection that is closing; called by it, maybe more than once."""
        if connection not in self._open:
            return
        del self._open[connection]
        if connection in self._idle:
            self._idle.remove(connection)
        if not connection.lost.done():
            self._closing.add(connection.lost)
            connection.lost.add_done_callback(self._closing.discard)
