"""HTTP/1.1 as Go's net/http speaks it, with a hand on the socket that faults need.

``Connection`` parses requests and hands each to its app, which answers with an ``Exchange``. One
request of a connection is served at a time; pipelined ones wait.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import CORO_SUSPENDED, getcoroutinestate
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

Header = tuple[bytes, bytes]
Work = Coroutine[Any, Any, None]
_NOT_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n\r\n400 Bad Request"
)
_LINGER_S = 0.5  # how long net/http leaves a half-closed connection open


class BodySink(Protocol):
    """Takes the body of a request as it comes."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        ...


@dataclass(slots=True)
class Request:
    """A request; complete when it reaches :meth:`App.handle`."""

    method: str
    target: str
    path: str
    """The decoded target without its query."""
    headers: list[Header]
    http11: bool = True
    keep_alive: bool = True
    expects_continue: bool = False
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    sink: BodySink | None = None

    def header(self, name: bytes) -> str:
        """Return a header by its lower-case name; empty if it is absent."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return ""


class App(Protocol):
    """What answers the requests of a listener. Owns the connections and tasks."""

    connections: "set[Connection]"
    tasks: set[asyncio.Task[None]]

    def accepts(self, connection: "Connection") -> bool:
        """Say whether a new connection is listened to at all."""
        ...

    def begin(self, connection: "Connection", request: Request) -> None:
        """See the head of a request, before its body."""
        ...

    def answer_at_once(self, connection: "Connection", request: Request) -> bool:
        """Answer a complete request if that takes no handler; return whether it was answered."""
        ...

    async def handle(self, connection: "Connection", request: Request) -> None:
        """Answer a complete request."""
        ...

    def connection_closed(self, connection: "Connection") -> None:
        """See that a connection is gone."""
        ...


class _Started:
    """A coroutine that has been run up to its first wait; awaiting it goes on from there."""

    def __init__(self, work: Work, waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        work, waits_for = self._work, self._waits_for
        while True:
            thrown: BaseException | None = None
            try:
                yield waits_for
            except BaseException as error:
                thrown = error
            try:
                waits_for = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration:
                return


async def _resume(started: _Started) -> None:
    await started


def _abandon(work: Work) -> None:
    """Cancel a coroutine whose task was cancelled before its first step."""
    if getcoroutinestate(work) == CORO_SUSPENDED:
        with suppress(StopIteration, asyncio.CancelledError):
            work.throw(asyncio.CancelledError())


@lru_cache(maxsize=256)
def _split_target(url: bytes) -> tuple[str, str]:
    """Return a target as it came, and its decoded path."""
    target = url.decode("latin-1")
    return target, unquote(target.partition("?")[0])


class Connection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, app: App) -> None:
        self.transport: asyncio.Transport
        self.is_open = False
        self.is_mute = False
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[Header] = []
        self._request: Request | None = None
        self._waiting: deque[Request] = deque()
        self._is_busy = False
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._reading_again: asyncio.TimerHandle | None = None

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        self.transport = transport  # type: ignore[assignment]
        self.is_open = True
        self._app.connections.add(self)
        self.is_mute = not self._app.accepts(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Cancel the work for a client that has left."""
        self.is_open = False
        self._app.connections.discard(self)
        for future in (self._closed, self._writable):
            if future is not None and not future.done():
                future.set_result(None)
        for timer in (self._linger, self._reading_again):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._app.connection_closed(self)

    def pause_writing(self) -> None:
        """Note that the client reads too slowly."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Note that the client has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    @property
    def now(self) -> float:
        """Return the time of the loop's clock."""
        return self._loop.time()

    @property
    def is_paused(self) -> bool:
        """Whether the client reads more slowly than we write."""
        return self._writable is not None

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written."""
        if self._writable is not None:
            await self._writable

    async def wait_closed(self) -> None:
        """Wait until the client has left."""
        if self.is_open:
            if self._closed is None:
                self._closed = self._loop.create_future()
            await asyncio.shield(self._closed)

    def write(self, data: bytes) -> None:
        """Write to the socket, unless it is gone."""
        if self.is_open:
            self.transport.write(data)

    def reset(self) -> None:
        """Close with a RST instead of a FIN; what was not sent yet is lost."""
        if not self.is_open:
            return
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def hold_back(self, seconds: float) -> None:
        """Read nothing from the client for a while."""
        if self._reading_again is not None:  # more that came with the same read
            seconds += self._reading_again.when() - self.now
            self._reading_again.cancel()
        self.transport.pause_reading()
        self._reading_again = self._loop.call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        self._reading_again = None
        if self.is_open and not self.is_mute:
            self.transport.resume_reading()

    def close_unread(self) -> None:
        """Close while the client still sends: end our side, then reset shortly after."""
        self.is_mute = True
        self.transport.pause_reading()
        self.transport.write_eof()
        self._linger = self._loop.call_later(_LINGER_S, self.transport.abort)

    # The parser.

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self.is_mute:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # net/http serves such a request like any other
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            self.write(_NOT_HTTP)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Add to the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Show the head to the app."""
        method = self._parser.get_method().decode()
        self._request = request = Request(method, *_split_target(self._url), self._headers)
        request.http11 = self._parser.get_http_version() == "1.1"
        request.expects_continue = (b"expect", b"100-continue") in self._headers
        self._app.begin(self, request)
        if request.expects_continue and not self.is_mute:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        request = self._request
        if request is None or self.is_mute:
            return
        if request.sink is not None:
            request.sink.feed(data)
            return
        request.parts.append(data)

    def on_message_complete(self) -> None:
        """Serve the request, or keep it until the one before is answered."""
        request, self._request = self._request, None
        if request is None or self.is_mute:
            return
        request.keep_alive = self._parser.should_keep_alive()
        request.body = b"".join(request.parts)
        if self._is_busy:
            self._waiting.append(request)
            return
        if request.keep_alive and self._app.answer_at_once(self, request):
            return
        self._serve(request)

    # The work.

    def _serve(self, request: Request) -> None:
        """Run the handler; it gets a task only if it has to wait for something."""
        self._is_busy = True
        work = self._app.handle(self, request)
        try:
            waits_for = work.send(None)
        except StopIteration:
            self._served(request)
            return
        self._task = task = self._loop.create_task(_resume(_Started(work, waits_for)))
        self._app.tasks.add(task)
        task.add_done_callback(lambda done: self._task_done(done, work, request))

    def _task_done(self, task: asyncio.Task[None], work: Work, request: Request) -> None:
        self._app.tasks.discard(task)
        self._task = None
        if task.cancelled():
            _abandon(work)
            return
        if task.exception() is None:
            self._served(request)
            return
        self._loop.call_exception_handler(
            {"message": "simulated node failed", "exception": task.exception(), "task": task}
        )
        self.transport.abort()

    def _served(self, request: Request) -> None:
        self._is_busy = False
        if not self.is_open:
            return
        if not request.keep_alive:
            self.transport.close()
            return
        if self._waiting and not self.is_mute:
            self._serve(self._waiting.popleft())
