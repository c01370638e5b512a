"""uvicorn's HTTP/1.1 protocol with the limits a server in the open needs.

uvicorn bounds neither the size nor the number of headers, nor the time a caller takes to send
them, and it takes requests with no or several ``Host``. It is also the first to know that a
caller left, which it tells here without a task per request.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sollol.errors import ClientDisconnected

CONNECTION_KEY = "sollol.connection"
"""Where a request's scope holds its connection (for ``gateway/disconnect.py``)."""

WRITER_KEY = "sollol.writer"
"""Where a request's scope holds its :class:`AnswerWriter` (for ``gateway/relay.py``)."""


DISCARD_S = 5.0
"""How long the rest of a refused body is read; then the connection is closed."""


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """Bounds on what a caller may send before it is a request."""

    max_header_bytes: int = 65536
    max_headers: int = 200
    header_timeout_s: float = 10.0
    write_timeout_s: float = 120.0


_UPGRADE = re.compile(rb"^(?:upgrade|http2-settings|connection)[ \t]*:[^\r\n]*\r\n", re.I | re.M)


def _without_upgrade(data: bytes) -> bytes:
    """Drop an offer to speak another protocol, which a server is free to ignore.

    Java's and curl's clients make it with a POST. To the parser the request would end with its
    head, and its body would be the next request.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return _UPGRADE.sub(b"", data)
    return _UPGRADE.sub(b"", head + b"\r\n") + b"\r\n" + rest


class AnswerWriter:
    """Writes one answer to the transport, in uvicorn's place where that costs too much.

    1. The head is held back and written with the first piece of the body: one packet, not two.
    2. ``write_chunk`` writes a piece of a stream without a coroutine and a message for each.
    """

    __slots__ = ("_flow", "_has_begun", "_head", "_timeout_s", "_transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._transport = transport
        self._flow = flow
        self._head = b""
        self._has_begun = False

    def write(self, data: bytes) -> None:
        """Hold the head back (but not ``100 Continue``), and write everything else at once."""
        if self._has_begun:
            self._transport.write(self._head + data if self._head else data)
            self._head = b""
            return
        if data.startswith(b"HTTP/1.1 100"):
            self._transport.write(data)
            return
        self._has_begun = True
        self._head = data

    def write_chunk(self, data: bytes) -> bool:
        """Write a piece of a body that is sent in chunks; return whether the client is slow."""
        if not self._transport.is_closing():
            self.write(b"%x\r\n%b\r\n" % (len(data), data))
        return self._flow.write_paused

    @property
    def is_slow(self) -> bool:
        """Whether the client has not read what was written for it."""
        return self._flow.write_paused

    async def wait_room(self) -> None:
        """Wait until the client has read some of what was written.

        Raises:
            ClientDisconnected: it did not, for ``write_timeout_s``; the connection is closed.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._flow.drain()
        except TimeoutError:
            self._transport.abort()
            raise ClientDisconnected("the client does not read its answer") from None

    def abort(self) -> None:
        """Close the connection at once; what is not written is lost."""
        self._transport.abort()

    def flush(self) -> None:
        """Write the head of an answer that has no body."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Close the connection once all is written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()


class GatewayProtocol(HttpToolsProtocol):
    """One connection of a caller. ``limits`` is set on a subclass made for each server."""

    limits: ClassVar[ProtocolLimits] = ProtocolLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_lost: Callable[[], None] | None = None
        self._is_lost = False
        self._head_bytes = 0
        self._head_since: float | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._has_body_to_come = False
        self._trailer_bytes = 0

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once when the caller's connection is lost; None ends the watch."""
        self._on_lost = callback
        if callback is not None and self._is_lost:
            callback()

    @property
    def is_request_complete(self) -> bool:
        """Whether the whole body of the current request has come."""
        return not self._has_body_to_come

    def discard_body(self) -> None:
        """Let the rest of a refused body come and go, for a while.

        A connection that is closed with bytes unread is reset, and a reset can overtake the answer
        on its way to the client.
        """
        if self._has_body_to_come:
            self.loop.call_later(DISCARD_S, self._close_unless_complete, self.cycle)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a head; silence counts as a slow one."""
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves the request."""
        self._is_lost = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Bound the head while it comes in; a body is bounded by whoever reads it."""
        if self._is_refused:
            return
        if self._head_since is not None:
            self._head_bytes += len(data)
            if b"pgrade" in data:
                data = _without_upgrade(data)
        super().data_received(data)
        if self._head_since is not None and self._head_bytes > self.limits.max_header_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """Start to measure a head."""
        super().on_message_begin()
        self.scope[CONNECTION_KEY] = self  # type: ignore[literal-required]
        if self._head_since is None:
            self._head_since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the head is a trailer, which nobody needs."""
        if self._head_since is not None:
            super().on_header(name, value)
            return
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > self.limits.max_header_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(b"400 Bad Request")

    def on_headers_complete(self) -> None:
        """Refuse what is ambiguous or too much before any of it is acted on."""
        self._head_since = None
        self._trailer_bytes = 0
        self._head_bytes = 0
        if len(self.headers) > self.limits.max_headers:
            self._refuse(b"431 Request Header Fields Too Large")
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and (hosts > 1 or self.parser.get_http_version() == "1.1"):
            self._refuse(b"400 Bad Request")
            return
        if self.parser.should_upgrade() and self._promises_body():
            self._refuse(b"400 Bad Request")  # the parser would take the body for another request
            return
        self._has_body_to_come = True
        super().on_headers_complete()
        # Each request has its own: a pipelined one is here before the answer to the last is out.
        writer = AnswerWriter(self.transport, self.flow, self.limits.write_timeout_s)
        self.cycle.transport = writer  # type: ignore[assignment]
        self.cycle.on_response = partial(self._answered, writer)
        self.scope[WRITER_KEY] = writer  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        """Drop what follows a refusal."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a body; drop what follows a refusal."""
        self._has_body_to_come = False
        if not self._is_refused:
            super().on_message_complete()
        if not self.pipeline:
            # uvicorn stops reading at a long body; nobody would see the caller leave.
            self.flow.resume_reading()

    def _answered(self, writer: AnswerWriter) -> None:
        """Let out what is held, then go on to the next request."""
        writer.flush()
        self.on_response_complete()

    def _promises_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _refuse(self, status: bytes) -> None:
        """Answer with a bare status and close; only close inside the answer to another request."""
        self._is_refused = True
        if self.transport.is_closing():
            return
        if self._is_answering():
            self.transport.abort()
            return
        head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        self.transport.write(head)
        self.transport.close()

    def _close_unless_complete(self, cycle: object) -> None:
        if self._has_body_to_come and self.cycle is cycle:
            self.transport.close()

    def _arm_head_timer(self) -> None:
        delay_s = self.limits.header_timeout_s
        self._head_timer = self.loop.call_later(delay_s, self._check_head)

    def _check_head(self) -> None:
        """Close on a head that takes too long. One timer a connection, none a request."""
        since = self._head_since
        if self._is_answering():  # whoever waits for an answer is not slow
            since = None
        if since is not None and self.loop.time() - since >= self.limits.header_timeout_s:
            self._refuse(b"408 Request Timeout")
            return
        self._arm_head_timer()
