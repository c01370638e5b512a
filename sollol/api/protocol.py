"""HTTP/1.1 towards callers: bytes become requests, within the limits a server in the open needs.

uvicorn accepts connections and stops them; what happens on one is here. Its own protocol bounds
neither a head nor the time it takes, and costs more than all the rest of a request.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import httptools
import structlog
import uvicorn
from uvicorn.server import ServerState

from sollol.api.answer import Answer
from sollol.api.request import Headers, Request
from sollol.errors import ClientDisconnected
from sollol.upstream.outbox import Outbox

log = structlog.get_logger()

DISCARD_S = 5.0
"""How long the rest of a refused body is read; then the connection is closed."""

Application = Callable[[Request, Answer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """Bounds on what a caller may send before it is a request, and on its patience and ours."""

    max_header_bytes: int = 65536
    max_headers: int = 200
    header_timeout_s: float = 10.0
    write_timeout_s: float = 120.0
    keep_alive_s: float = 75.0


_UPGRADE = re.compile(rb"^(?:upgrade|http2-settings|connection)[ \t]*:[^\r\n]*\r\n", re.I | re.M)
_FRAMES_BODY = frozenset({b"content-length", b"transfer-encoding"})


def _without_upgrade(data: bytes) -> bytes:
    """Drop an offer to speak another protocol, which a server is free to ignore.

    Java's and curl's clients make it with a POST. To the parser the request would end with its
    head, and its body would be the next request.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return _UPGRADE.sub(b"", data)
    return _UPGRADE.sub(b"", head + b"\r\n") + b"\r\n" + rest


class CommonHeaders:
    """The lines of the headers that every answer has (the date), made anew when they change."""

    def __init__(self) -> None:
        self._source: list[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def lines(self, source: list[tuple[bytes, bytes]]) -> bytes:
        """Return ``source`` as it is written; uvicorn replaces that list every second."""
        if source is not self._source:
            self._source = source
            self._lines = b"".join(b"%b: %b\r\n" % header for header in source)
        return self._lines


class GatewayProtocol(asyncio.Protocol):
    """One connection of a caller. ``limits`` and ``outbox`` are set on a subclass for each server.

    One request is served at a time, by a task of its own; those that a caller sends before it has
    the answer wait in the order they came.
    """

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()
    common: ClassVar[CommonHeaders] = CommonHeaders()
    outbox: ClassVar[Outbox] = Outbox()

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = cast(Application, config.loaded_app)
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # What follows the last request of a connection is no fault of that request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport  # both are set when the connection is made
        self.write: Callable[[bytes], None]
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = self._loop.time()
        # What comes in:
        self._target = b""
        self._headers: Headers = []
        self._hosts = 0
        self._head_bytes = 0
        self._trailer_bytes = 0
        self._head_since: float | None = self._idle_since
        self._receiving: Request | None = None
        self._is_refused = False
        self._is_held = False
        # What goes out:
        self._serving: tuple[Request, Answer] | None = None
        self._pipeline: deque[tuple[Request, Answer]] = deque()
        self._room: asyncio.Event | None = None
        self._on_lost: Callable[[], None] | None = None
        self._is_lost = False
        self.is_slow = False

    # For whoever serves a request

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once when the caller's connection is lost; None ends the watch."""
        self._on_lost = callback
        if callback is not None and self._is_lost:
            callback()

    async def wait_room(self) -> None:
        """Wait until the caller has read some of what was written.

        Raises:
            ClientDisconnected: it did not, for ``write_timeout_s``; the connection is closed.
        """
        if not self.is_slow or self._is_lost:
            return
        self._room = self._room or asyncio.Event()
        try:
            async with asyncio.timeout(self.limits.write_timeout_s):
                await self._room.wait()
        except TimeoutError:
            self._transport.abort()
            raise ClientDisconnected("the client does not read its answer") from None

    def abort(self) -> None:
        """Close the connection at once; what is not written is lost."""
        self._transport.abort()

    def common_headers(self) -> bytes:
        """Return the lines of the headers that every answer has."""
        return self.common.lines(self._state.default_headers)

    def hold_back(self) -> None:
        """Read nothing more of the caller for now."""
        if not self._is_held and not self._transport.is_closing():
            self._is_held = True
            self._transport.pause_reading()

    def let_come(self) -> None:
        """Read on."""
        if self._is_held and not self._transport.is_closing():
            self._is_held = False
            self._transport.resume_reading()

    def invite_body(self) -> None:
        """Tell a caller who waits for it that its body is wanted."""
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Callbacks of asyncio and uvicorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a head; silence counts as a slow one."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.write = partial(self.outbox.put, self._transport)
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._arm_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves a request."""
        self._state.connections.discard(self)
        self._is_lost = True
        self._pipeline.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        if self._serving is not None:
            self._serving[0].lose()
        if self._on_lost is not None:
            self._on_lost()

    def eof_received(self) -> None:
        """Close: a caller that sends nothing more takes nothing more either."""

    def pause_writing(self) -> None:
        """Take note that the caller does not read fast enough."""
        self.is_slow = True

    def resume_writing(self) -> None:
        """Take note that the caller has read enough."""
        self.is_slow = False
        if self._room is not None:
            self._room.set()
            self._room = None

    def shutdown(self) -> None:
        """Close, now or after the answer that is under way."""
        if self._serving is None:
            self._close()
            return
        self._pipeline.clear()
        self._serving[1].keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Bound the head while it comes in; a body is bounded by whoever reads it."""
        if self._is_refused:
            return
        if self._head_since is not None:
            self._head_bytes += len(data)
            if b"pgrade" in data:
                data = _without_upgrade(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # CONNECT; it gets the answer of an unknown path
            self._is_refused = True
        except httptools.HttpParserError:
            self._refuse(b"400 Bad Request")
        if self._head_since is not None and self._head_bytes > self.limits.max_header_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Start to measure a head."""
        self._target = b""
        self._headers = []
        self._hosts = 0
        if self._head_since is None:
            self._head_since = self._loop.time()

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the head is a trailer, which nobody needs."""
        if self._head_since is None:
            self._trailer_bytes += len(name) + len(value)
            if self._trailer_bytes > self.limits.max_header_bytes:
                self._refuse(b"431 Request Header Fields Too Large")
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse what is ambiguous or too much before any of it is acted on; else serve it."""
        self._head_since = None
        self._trailer_bytes = 0
        self._head_bytes = 0
        if self._is_refused:
            return
        if len(self._headers) > self.limits.max_headers:
            self._refuse(b"431 Request Header Fields Too Large")
            return
        parser = self._parser
        version = parser.get_http_version()
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            self._refuse(b"400 Bad Request")
            return
        if parser.should_upgrade() and any(name in _FRAMES_BODY for name, _ in self._headers):
            self._refuse(b"400 Bad Request")  # the parser would take the body for another request
            return
        method = parser.get_method().decode("ascii")
        try:
            request = Request(self, method, self._target, self._headers)
        except ValueError:
            self._refuse(b"400 Bad Request")
            return
        is_old = version == "1.0"
        answer = Answer(
            self,
            is_head=method == "HEAD",
            speaks_chunks=not is_old,
            keep_alive=not is_old and parser.should_keep_alive(),
        )
        self._receiving = request
        if self._serving is None:
            self._start(request, answer)
            return
        self._pipeline.append((request, answer))
        self.hold_back()

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body over; drop what follows a refusal."""
        if not self._is_refused and self._receiving is not None:
            self._receiving.feed(body)

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        if not self._is_refused and self._receiving is not None:
            self._receiving.end()
        if not self._pipeline:
            self.let_come()  # or nobody would see the caller leave

    # Serving

    def _start(self, request: Request, answer: Answer) -> None:
        self._serving = (request, answer)
        task = self._loop.create_task(self._serve(request, answer))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _serve(self, request: Request, answer: Answer) -> None:
        try:
            await self._app(request, answer)
        except Exception:  # a fault of ours: the caller is told, and the log has the trace
            log.exception("request_failed", path=request.path)
            if not answer.is_started:
                answer.keep_alive = False
                answer.whole(500, [(b"content-type", b"text/plain")], b"Internal Server Error")
        finally:
            self._served(request, answer)

    def _served(self, request: Request, answer: Answer) -> None:
        """Go on to the next request; close after an answer that is not whole, or the last one."""
        self._serving = None
        self._on_lost = None
        self._idle_since = self._loop.time()
        if answer.is_complete and not request.is_complete:
            self._discard(request, answer)
            return
        if not answer.is_complete or not answer.keep_alive:
            self._pipeline.clear()
            self._close()
            return
        if self._pipeline:
            self._start(*self._pipeline.popleft())
        if not self._pipeline:
            self.let_come()

    def _discard(self, request: Request, answer: Answer) -> None:
        """Let the rest of a refused body come and go, for a while.

        A connection that is closed with bytes unread is reset, and a reset can overtake the answer
        on its way to the client.
        """
        request.ignore()
        self._is_refused = not answer.keep_alive
        self._loop.call_later(DISCARD_S, self._close_unless_complete, request)

    def _close_unless_complete(self, request: Request) -> None:
        if not request.is_complete:
            self._close()

    def _refuse(self, status: bytes) -> None:
        """Answer with a bare status and close; only close inside the answer to another request."""
        self._is_refused = True
        if self._transport.is_closing():
            return
        if self._serving is not None:
            self._transport.abort()
            return
        head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        self.write(head)
        self._close()

    def _close(self) -> None:
        """Close once all is written."""
        self.outbox.flush()
        self._transport.close()

    # Time

    def _arm_timer(self) -> None:
        delay_s = min(self.limits.header_timeout_s, self.limits.keep_alive_s)
        self._timer = self._loop.call_later(delay_s, self._check_time)

    def _check_time(self) -> None:
        """Close on a head that takes too long and on idleness. One timer a connection."""
        now = self._loop.time()
        if self._serving is not None:  # whoever waits for an answer is not slow
            pass
        elif self._head_since is not None:
            if now - self._head_since >= self.limits.header_timeout_s:
                self._refuse(b"408 Request Timeout")
                return
        elif now - self._idle_since >= self.limits.keep_alive_s:
            if self.is_slow:
                self._transport.abort()  # its answer is not read; a close would wait for that
            else:
                self._close()
            return
        self._arm_timer()
