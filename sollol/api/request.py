"""A request as it comes in over a caller's connection."""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from sollol.errors import ClientDisconnected, ShuttingDown, SollolError
from sollol.wire.hops import VIA

MAX_UNREAD_BYTES = 65_536
"""With more of a body than this unread, the caller is made to wait."""

LONGEST_CACHED = 1024
"""Longer targets are not remembered: a caller can make up any number of them."""

Headers = list[tuple[bytes, bytes]]


class Source(Protocol):
    """The connection that a request comes over (``api/protocol.py``)."""

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback()`` when the connection is lost; None ends the watch."""
        ...

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that serves the present request."""
        ...

    def hold_back(self) -> None:
        """Read nothing more of the caller for now."""
        ...

    def let_come(self) -> None:
        """Read on."""
        ...

    def invite_body(self) -> None:
        """Write ``100 Continue``."""
        ...

    @property
    def peer(self) -> str:
        """The address of the caller's end, without a port; empty where it has none."""
        ...


class Request:
    """One request, whose body is read by one task while it comes.

    The connection calls :meth:`feed`, :meth:`end` and :meth:`lose`.

    Attributes:
        method: in upper case.
        path: without the query, percent-decoded.
        raw_path, query: as they were sent; ``query`` without the question mark.
        target: both as they go to a node; empty when they hold what may not be in a request line.
        header_list: in the order sent, names in lower case; ``headers`` maps a name to its last
            value, and ``via`` to all of them.
        is_complete: the whole body has come.
        ignored_bytes: how much of it came after :meth:`ignore`.
        is_lost: the caller's connection has ended.
        is_streamed: the body goes on while it comes, so that it may come when the server stops.
        connection: what the request came over.
    """

    __slots__ = (
        "_expects_continue",
        "_ignores",
        "_pieces",
        "_refusal",
        "_unread_bytes",
        "_waiter",
        "connection",
        "header_list",
        "headers",
        "ignored_bytes",
        "is_complete",
        "is_lost",
        "is_streamed",
        "method",
        "path",
        "query",
        "raw_path",
        "target",
    )

    def __init__(self, connection: Source, method: str, target: bytes, headers: Headers) -> None:
        self.connection = connection
        self.method = method
        is_usual = len(target) <= LONGEST_CACHED
        split = split_target if is_usual else split_target.__wrapped__
        self.path, self.raw_path, self.query, self.target = split(target)
        self.header_list = headers
        self.headers = dict(headers)
        if VIA in self.headers:  # each proxy may add a line
            self.headers[VIA] = b", ".join(value for name, value in headers if name == VIA)
        self.is_complete = False
        self.is_lost = False
        self.is_streamed = False
        self._refusal: SollolError | None = None
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._ignores = False
        self.ignored_bytes = 0
        self._expects_continue = self.headers.get(b"expect", b"").lower() == b"100-continue"
        self._waiter: asyncio.Future[None] | None = None

    @property
    def expects_continue(self) -> bool:
        """Whether the caller waits to be asked for the body."""
        return self._expects_continue

    async def read(self) -> bytes:
        """Return what has come of the body, at least one byte of it, or ``b""`` at its end.

        Raises:
            ClientDisconnected: the caller left before its end.
            ShuttingDown: the server stops, and waits for no more of it.
        """
        while not self._pieces and not self.is_complete:
            if self.is_lost:
                raise ClientDisconnected("the client closed the connection")
            if self._refusal is not None:
                raise self._refusal
            if self._expects_continue:
                self._expects_continue = False
                self.connection.invite_body()
            await self._wait_news()
        return self.take()

    def take(self) -> bytes:
        """Return what is here of the body, possibly nothing."""
        pieces, self._pieces = self._pieces, []
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.connection.let_come()
        self._unread_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def wait_lost(self) -> None:
        """Return once the caller's connection has ended."""
        while not self.is_lost:
            await self._wait_news()

    def ignore(self) -> None:
        """Drop what is here and still to come of the body: the request has its answer."""
        self._ignores = True
        self.take()

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._ignores:
            self.ignored_bytes += len(piece)
            return
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.connection.hold_back()
        self._wake()

    def end(self) -> None:
        """Take note that the body is complete."""
        self.is_complete = True
        self._wake()

    def lose(self) -> None:
        """Take note that the caller's connection has ended."""
        self.is_lost = True
        self._wake()

    def stop(self) -> None:
        """Take note that the server stops: a body that has not come whole is waited for no more."""
        if not self.is_streamed:
            self._refusal = ShuttingDown()
            self._wake()

    async def _wait_news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@lru_cache(maxsize=1024)
def split_target(target: bytes) -> tuple[str, bytes, bytes, str]:
    """Return path, raw path, query and target (see :class:`Request`) of what was sent as one.

    Raises:
        ValueError: it is not one.
    """
    try:
        url: Any = httptools.parse_url(target)  # its stubs know nothing of parts that are missing
    except httptools.HttpParserInvalidURLError as error:
        raise ValueError(f"not a request target: {target[:100]!r}") from error
    raw_path = url.path or b"/"
    path = raw_path.decode("latin-1")
    query = url.query or b""
    whole = (raw_path + b"?" + query if query else raw_path).decode("latin-1")
    is_fit = whole.isascii() and whole.isprintable()
    return (unquote(path) if "%" in path else path), raw_path, query, (whole if is_fit else "")
