"""HTTP/1.1 towards callers: bytes become requests, within the limits a server in the open needs.

uvicorn accepts connections and stops them; what happens on one is here. Its own protocol bounds
neither a head nor the time it takes, and costs more than all the rest of a request.
"""

import asyncio
import math
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
import uvicorn
from uvicorn.server import ServerState

from sollol.api.answer import Answer
from sollol.api.door import ALWAYS_ANSWERED, FULL, FULL_HEADERS, Door, Entry
from sollol.api.parser import Head, Refused, RequestParser
from sollol.api.request import Request
from sollol.errors import ClientDisconnected
from sollol.upstream.outbox import Outbox, fd_of
from sollol.upstream.waits import within

log = structlog.get_logger()

DISCARD_S = 5.0
"""How long the rest of a refused body is read; then the connection is closed."""

DISCARD_PAUSE_S = 0.5
"""It is closed before, when nothing of it came for so long."""

HELD_REQUESTS = 16
"""With so many requests waiting for the one before them, a caller is not read any more."""
MAX_PIPELINED = 256
"""With more, which came in one piece, the caller is refused."""

Application = Callable[[Request, Answer], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """Bounds on what a caller may send before it is a request, and on its patience and ours."""

    max_header_bytes: int = 65536
    max_headers: int = 200
    header_timeout_s: float = 10.0
    write_timeout_s: float = 120.0
    keep_alive_s: float = 75.0


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


class Shared:
    """What all connections of a server have in common."""

    def __init__(self, limits: ProtocolLimits, door: Door, outbox: Outbox) -> None:
        self.limits = limits
        self.door = door
        self.outbox = outbox
        self.headers = CommonHeaders()


class GatewayProtocol(asyncio.Protocol):
    """One connection of a caller; uvicorn gives all but the first argument.

    One request is served at a time, by a task of its own; those that a caller sends before it has
    the answer wait in the order they came.
    """

    def __init__(
        self,
        shared: Shared,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._app = cast(Application, config.loaded_app)
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport  # both are set when the connection is made
        self.write: Callable[[bytes], None]
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = self._loop.time()
        # What comes in:
        self._parser = RequestParser(
            max_header_bytes=self._limits.max_header_bytes,
            max_headers=self._limits.max_headers,
            on_head=self._head_came,
            on_end=self._request_ended,
        )
        self._head_since = self._idle_since
        self._is_refused = False
        self._is_spare = False
        self._is_held = False
        self._discarded: Request | None = None
        # What goes out:
        self._serving: tuple[Request, Answer] | None = None
        self._pipeline: deque[tuple[Request, Answer]] = deque()
        self._room: asyncio.Event | None = None
        self._on_lost: Callable[[], None] | None = None
        self._is_lost = False
        self._is_half_closed = False
        self._unsent_bytes = 0
        self._closing_since: float | None = None
        self.is_slow = False
        self.peer = ""
        self.task: asyncio.Task[None] | None = None
        self._awaited: asyncio.Future[None] | None = None

    # For whoever serves a request

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once when the caller's connection is lost; None ends the watch."""
        self._on_lost = callback
        if callback is not None and (self._is_lost or self._is_half_closed):
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
            await within(self._limits.write_timeout_s, self._room.wait())
        except TimeoutError:
            self._reset()
            raise ClientDisconnected("the client does not read its answer") from None

    def abort(self) -> None:
        """Close the connection at once; what is not written is lost."""
        self._transport.abort()

    def common_headers(self) -> bytes:
        """Return the lines of the headers that every answer has."""
        return self._shared.headers.lines(self._state.default_headers)

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
        """Tell a caller who waits for it that its body is wanted; so it will come."""
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._serving is not None:
            answer = self._serving[1]
            answer.keep_alive = not answer.is_last

    # Callbacks of asyncio and uvicorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a head; silence counts as a slow one."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.peer = address_of(transport.get_extra_info("peername"))
        self.write = partial(self._shared.outbox.put, self._transport, fd=fd_of(transport))
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._arm_timer()
        entry = self._shared.door.entry(len(self._state.connections))
        if entry is not Entry.FREE:
            self._is_spare = True
            if entry is Entry.NONE:
                self._refuse(b"503 Service Unavailable\r\nretry-after: 1")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves a request."""
        self._state.connections.discard(self)
        self._is_lost = True
        self._pipeline.clear()
        self._parser.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        if self._serving is not None:
            self._serving[0].lose()
        if self._on_lost is not None:
            self._on_lost()
        self._wake()

    def eof_received(self) -> bool:
        """Close, unless a request is being served that is answered at once: it may be read still.

        Whoever waits for a model and has nothing more to say counts as gone, as with Ollama.
        """
        self._is_half_closed = True
        if self._serving is None or self._on_lost is not None:
            self._shared.outbox.flush()
            return False
        self._serving[1].keep_alive = False
        return True

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
        request, answer = self._serving
        answer.keep_alive = False
        request.stop()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._is_refused:
            return
        parser = self._parser
        begun = parser.begun
        try:
            parser.feed(data)
        except Refused as refusal:
            self._refuse(refusal.status)
        if parser.begun != begun:
            self._head_since = self._loop.time()

    # What the parser tells

    def _head_came(self, head: Head) -> Request | None:
        """Serve a request, or let it wait for the one before it."""
        if len(self._pipeline) >= MAX_PIPELINED or self._is_refused:
            return None
        try:
            request = Request(self, head.method, head.target, head.headers)
        except ValueError:
            return None
        answer = Answer(
            self,
            is_head=head.method == "HEAD",
            speaks_chunks=not head.is_old,
            keep_alive=head.keep_alive,
        )
        if self._is_spare:
            answer.keep_alive = False
            if request.path not in ALWAYS_ANSWERED:
                answer.whole(503, FULL_HEADERS, FULL)
                self._discard(request, answer)
                return request
        if request.expects_continue:  # a body that is not asked for may come or not
            answer.keep_alive = False
        if self._serving is None:
            self._start(request, answer)
            return request
        self._pipeline.append((request, answer))
        if len(self._pipeline) >= HELD_REQUESTS:
            self.hold_back()
        return request

    def _request_ended(self, request: Request) -> None:
        if request is self._discarded:
            self._is_refused = True
            self._close()
        elif len(self._pipeline) < HELD_REQUESTS:
            self.let_come()  # or nobody would see the caller leave

    # Serving

    def _start(self, request: Request, answer: Answer) -> None:
        self._serving = (request, answer)
        if self.task is None or self.task.done():
            self.task = self._loop.create_task(self._serve())
        else:
            self._wake()
        self._state.tasks.add(self.task)

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def _serve(self) -> None:
        """Serve one request after the other; a task for each would cost three microseconds."""
        is_next = False
        while True:
            if self._serving is None:
                if self._is_lost:
                    return
                self._awaited = self._loop.create_future()
                await self._awaited
                continue
            request, answer = self._serving
            try:
                if is_next:  # it came with the one before it: others have their turn first
                    await asyncio.sleep(0)
                if self.is_slow:  # it has not read the answers before this one
                    await self.wait_room()
                await self._app(request, answer)
            except ClientDisconnected:
                self._pipeline.clear()
            except asyncio.CancelledError:
                self._pipeline.clear()  # this task serves nothing more
                raise
            except Exception:  # a fault of ours: the caller is told, and the log has the trace
                log.exception("request_failed", path=request.path)
                if not answer.is_started:
                    answer.keep_alive = False
                    answer.whole(500, [(b"content-type", b"text/plain")], b"Internal Server Error")
            finally:
                is_next = self._served(request, answer)

    def _served(self, request: Request, answer: Answer) -> bool:
        """Go on to the next request; close after an answer that is not whole, or the last one.

        Returns whether the next one has come already.
        """
        self._serving = None
        self._state.tasks.discard(self.task)
        self._on_lost = None
        self._idle_since = self._loop.time()
        if answer.is_complete and not request.is_complete:
            self._discard(request, answer)
            return False
        if not answer.is_complete and answer.ends_by_close:
            self.abort()  # a close would be taken for its end
        if not answer.is_complete or not answer.keep_alive:
            self._pipeline.clear()
            self._close()
            return False
        has_next = bool(self._pipeline)
        if has_next:
            self._start(*self._pipeline.popleft())
        if len(self._pipeline) < HELD_REQUESTS:
            self.let_come()
        return has_next

    def _discard(self, request: Request, answer: Answer) -> None:
        """Let the rest of a refused body come and go, for a while.

        A connection that is closed with bytes unread is reset, and a reset can overtake the answer
        on its way to the client.
        """
        request.ignore()
        if not answer.keep_alive:
            self._discarded = request
        until = self._loop.time() + DISCARD_S
        self._loop.call_later(DISCARD_PAUSE_S, self._check_discarded, request, 0, until)

    def _check_discarded(self, request: Request, seen_bytes: int, until: float) -> None:
        """Close on a refused body that takes too long, or has stopped to come."""
        if request.is_complete:
            return
        if request.ignored_bytes == seen_bytes or self._loop.time() >= until:
            self._close()
            return
        seen_bytes = request.ignored_bytes
        self._loop.call_later(DISCARD_PAUSE_S, self._check_discarded, request, seen_bytes, until)

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
        self._shared.outbox.flush()
        if not self._transport.is_closing():
            self._closing_since = self._loop.time()
            self._unsent_bytes = self._transport.get_write_buffer_size()
        self._transport.close()

    def _reset(self) -> None:
        """Close at once and forget what the system still holds for the caller, who reads nothing."""
        linger = struct.pack("ii", 1, 0)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    # Time

    def _arm_timer(self, left_s: float = math.inf) -> None:
        delay_s = min(self._limits.header_timeout_s, self._limits.keep_alive_s, left_s)
        self._timer = self._loop.call_later(delay_s, self._check_time)

    def _check_time(self) -> None:
        """Close on a head that takes too long and on idleness. One timer a connection."""
        now, left_s = self._loop.time(), math.inf
        if self._closing_since is not None:
            self._check_closing(now, self._closing_since)
        elif self._serving is not None:  # whoever waits for an answer is not slow
            pass
        elif self._parser.is_in_head:
            left_s = self._head_since + self._limits.header_timeout_s - now
            if left_s <= 0:
                self._refuse(b"408 Request Timeout")
                left_s = math.inf
        elif now - self._idle_since >= self._limits.keep_alive_s:
            self._close()
        self._arm_timer(left_s)

    def _check_closing(self, now: float, since: float) -> None:
        """Give up on a caller who does not read the rest of what was written."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self._closing_since, self._unsent_bytes = now, unsent_bytes
        elif now - since >= self._limits.write_timeout_s:
            self._reset()


def address_of(peername: object) -> str:
    """Return the address in what a socket calls its peer, of IPv4 also where IPv6 wraps it."""
    host = peername[0] if isinstance(peername, tuple) and peername else ""
    return str(host).removeprefix("::ffff:")
