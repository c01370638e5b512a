"""One TCP (or TLS) connection to a node, which carries one exchange at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import cast

from sollol.errors import ProtocolViolation, UpstreamCut
from sollol.upstream import failures
from sollol.upstream.answer import AnswerParser
from sollol.upstream.clock import WaitClock
from sollol.upstream.outbox import NO_FD, Outbox, fd_of
from sollol.upstream.request import Patience, Timeouts, UpstreamRequest
from sollol.upstream.sockets import set_options, unconfirmed_bytes

MAX_BUFFERED_BYTES = 262_144
"""With more than this unread, the node is made to wait (one read of the socket may go over it)."""
_ONE_WRITE_BYTES = 65_536
Sink = Callable[[bytes], bool]
"""Takes a piece of a body and returns whether it has enough for now."""
IsOver = Callable[[], bool]
"""Whether nothing needs to follow what has come of a body."""


class Connection(asyncio.Protocol):
    """Sends a request, feeds the parser, and holds back whichever side is too fast.

    The pool calls :meth:`begin`, then :meth:`send_body` or :meth:`stream_body`, then
    :meth:`wait_head`; the response calls :meth:`read` or :meth:`pump`; in the end the pool calls :meth:`rest` or
    :meth:`abort`. However the connection ends, ``on_closed`` is called (maybe more than once),
    and ``lost`` is done once its socket is closed.
    """

    def __init__(
        self,
        authority: str,
        timeouts: Timeouts,
        outbox: Outbox,
        on_closed: Callable[["Connection"], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._outbox = outbox
        self.authority = authority
        self._timeouts = timeouts
        self._first_byte_s = timeouts.first_byte_s
        self._stall_s = timeouts.stall_s
        self._quiet_s = timeouts.stall_s
        self._is_over: IsOver | None = None
        self._patience: Patience | None = None
        self._on_closed = on_closed
        tick_s = min(timeouts.first_byte_s, timeouts.stall_s, timeouts.lull_s)
        self._clock = WaitClock(self._loop, tick_s, self._expired)
        self._transport: asyncio.Transport  # set when the connection is made
        self._fd = NO_FD
        self._connected = False
        self._busy = False
        self._request_sent = False
        self._request_bytes = 0
        self._waited_s = 0.0
        self._has_body = False
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._unsent_bytes = 0
        self.answer = AnswerParser(authority)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.idle_since = 0.0
        self.was_closed_before = False
        """It is known that the node had closed it before any of the request under way came there."""

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange is over on both sides and the connection may carry another."""
        return (
            self.answer.keep_alive
            and self.answer.complete
            and self._request_sent
            and self._error is None
            and self._reader is None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0
        )

    @property
    def most_silent_s(self) -> float:
        """The longest wait that the pool's limits allow at any time of an exchange."""
        return max(self._timeouts.first_byte_s, self._timeouts.stall_s)

    # The exchange

    def begin(self, request: UpstreamRequest) -> None:
        """Start an exchange on a fresh or rested connection."""
        self._first_byte_s = request.first_byte_s or self._timeouts.first_byte_s
        self._stall_s = request.stall_s or self._timeouts.stall_s
        self._quiet_s = self._stall_s
        self._is_over = None
        self._patience = request.patience
        self._busy = True
        self._request_sent = False
        self._waited_s = 0.0
        self._has_body = False
        self.answer.expect(request.method)

    def send_body(self, head: bytes, body: bytes) -> None:
        """Write a whole request."""
        self._request_bytes = len(head) + len(body)
        if len(body) <= _ONE_WRITE_BYTES:
            self._outbox.put(self._transport, head + body, self._fd)
        else:  # not worth a copy
            self._write(head)
            self._write(body)
        self._request_ends()

    async def stream_body(
        self, head: bytes, body: AsyncIterator[bytes], content_length: int | None
    ) -> None:
        """Write a request as its body comes, no faster than the node takes it.

        Raises:
            ValueError: the body is not ``content_length`` bytes long.
        """
        self._write(head)
        sent_bytes = 0
        async for piece in body:
            sent_bytes += len(piece)
            if content_length is None:
                if piece:  # an empty chunk would end the body
                    self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
            elif sent_bytes > content_length:
                raise ValueError(f"the body is longer than its {content_length} bytes")
            else:
                self._write(piece)
            await self._wait_writable()
        if content_length is None:
            self._write(b"0\r\n\r\n")
        elif sent_bytes != content_length:
            raise ValueError(f"the body ended after {sent_bytes} of {content_length} bytes")
        self._request_ends()

    async def wait_head(self) -> None:
        """Return once the response head is there.

        Raises:
            UpstreamCut, UpstreamTimeout, ProtocolViolation: the node's failures.
        """
        try:
            while not self.answer.has_head:
                if self._error is not None:
                    raise self._error
                self._reader = self._loop.create_future()
                await self._reader
        finally:
            self._reader = None
            self._clock.stop()

    async def read(self) -> bytes:
        """Return what has come of the body, at least one byte of it, or ``b""`` at its end."""
        answer = self.answer
        while not answer.pieces:
            if answer.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait_body()
        self._has_body = True
        piece = answer.take()
        self._resume_reading()
        return piece

    async def pump(self, sink: Sink, is_over: IsOver | None) -> bool:
        """Give the body to ``sink`` as it comes, without waking a task for each piece.

        ``sink`` is called from the event loop's callback; an error it raises ends the exchange.

        Returns:
            Whether the body is at its end. If not, ``sink`` has enough: once it takes more, call
            again. Until then the node is held back like with a slow reader.
        """
        answer = self.answer
        if is_over is not None:
            self._is_over = is_over
            self._quiet_s = min(self._timeouts.lull_s, self._stall_s)
        while True:
            if answer.pieces:
                self._has_body = True
                has_enough = sink(answer.take())
                self._resume_reading()
                if has_enough:
                    return False
            if self._sink_error is not None:
                raise self._sink_error
            if answer.complete:
                return True
            if self._error is not None:
                raise self._error
            self._sink = sink
            await self._wait_body()
            if not self._keeps_pumping():
                return False

    def rest(self) -> None:
        """End an exchange and get ready for the next; only when ``is_reusable``."""
        self._busy = False
        self._is_over = None
        self.idle_since = self._loop.time()
        if self.answer.pieces:
            self.answer.take()
        self._resume_reading()

    @property
    def is_idle(self) -> bool:
        """Whether it carries no exchange."""
        return not self._busy

    @property
    def moved_at(self) -> float | None:
        """When part of a body came that is waited for, by the loop's clock; before it, endlessly long ago.

        None while the node is not waited for.
        """
        return self._clock.since if self._has_body or self._clock.since is None else -inf

    def abort(self) -> None:
        """Close the socket at once, which makes the node stop working on the request.

        What went wrong before is forgotten: its traceback leads back here, which would be a cycle.
        """
        self._error = self._sink_error = None
        self.fail(failures.closed_here(self.authority))

    def fail(self, error: BaseException) -> None:
        """Close the socket at once; whoever waits gets ``error``, unless an earlier one stands."""
        if self._error is None:
            self._error = error
        self._close()

    # Waiting

    def _keeps_pumping(self) -> bool:
        """Take the sink back; False when it was taken out already, having enough."""
        sink, self._sink = self._sink, None
        return sink is not None

    async def _wait_body(self) -> None:
        """Wait for more of the body, for as long as the node is not stalled."""
        self._clock.start(self._quiet_s if self._has_body else self._first_byte_s)
        try:
            await self._wait_news()
        except BaseException:
            self._sink = None
            self.abort()
            raise
        finally:
            self._clock.stop()

    async def _wait_news(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def _wait_writable(self) -> None:
        while self._writing_paused and self._error is None:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def _wake(self) -> None:
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _expired(self) -> None:
        """The node has kept us waiting for too long, unless it still takes the request."""
        limit_s = self._clock.limit_s
        if self._has_body:
            self._be_quiet(limit_s)
        elif self.answer.has_head or not self._writing_paused:
            self._be_patient()
        elif (unsent_bytes := self._transport.get_write_buffer_size()) < self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._clock.start(limit_s)
        else:
            self.fail(failures.stalled(self.authority, limit_s, uploading=True))

    def _be_quiet(self, limit_s: float) -> None:
        """Give up an answer that stands still, or one that is over and whose body does not end."""
        if limit_s >= self._stall_s or (self._is_over is not None and self._is_over()):
            self.fail(failures.stalled(self.authority, limit_s, uploading=False))
        else:
            self._clock.extend(self._stall_s)

    def _be_patient(self) -> None:
        """Wait for the answer for longer where there is a reason to, else give it up."""
        self._waited_s += self._clock.limit_s
        more_s = self._patience(self._waited_s) if self._patience is not None else 0.0
        if more_s > 0.0:
            self._clock.start(more_s)
        else:
            self.fail(failures.no_answer(self.authority, self._waited_s))

    # The transport

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _request_ends(self) -> None:
        self._request_sent = True
        if not self._writing_paused and not self.answer.has_head:
            self._clock.start(self._first_byte_s)

    def _resume_reading(self) -> None:
        if not self._reading_paused:
            return
        self._reading_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _close(self) -> None:
        self._clock.close()
        self._is_over = None
        self.answer.close()
        if self._connected:
            self._transport.abort()
        self._wake()
        self._on_closed(self)

    def _ended(self, cause: Exception | None) -> None:
        if self._busy and self._error is None:
            self.was_closed_before = not self.answer.started and self._is_unconfirmed()
            try:
                self.answer.end(cause)
            except UpstreamCut as error:
                self._error = error
        self._close()

    def _is_unconfirmed(self) -> bool:
        """Whether the node's system has not confirmed a single byte of a whole request.

        An orderly end confirms all that came before it, so of that it is certain. What is reset was
        confirmed at once or within 40 ms, unless the node had closed it or knows nothing of it. A request
        of several writes may break on a later one; then it is not known, and taken to have come there.
        """
        self._outbox.flush()
        unsent_bytes = self._transport.get_write_buffer_size()
        unsent_bytes += unconfirmed_bytes(self._transport.get_extra_info("socket"))
        return 0 < self._request_bytes <= unsent_bytes

    # Callbacks of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket's options, or close it if nobody wants it any more."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._connected = True
        if self._error is not None:
            self._transport.abort()
            return
        set_options(transport.get_extra_info("socket"))
        self._fd = fd_of(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and tell the reader."""
        if not self._busy:  # nobody asked for anything
            self.abort()
            return
        answer = self.answer
        try:
            answer.feed(data)
        except ProtocolViolation as error:
            self.fail(error)
            return
        if self._sink is not None and answer.pieces and not self._is_news_for_reader(self._sink):
            return
        if answer.buffered_bytes > MAX_BUFFERED_BYTES and not answer.complete:
            self._reading_paused = True
            self._transport.pause_reading()
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _is_news_for_reader(self, sink: Sink) -> bool:
        """Push what is here into the sink; return whether the task that pumps has to wake up."""
        self._clock.start(self._quiet_s)
        self._has_body = True
        try:
            has_enough = sink(self.answer.take())
        except Exception as error:
            self._sink_error = error  # counts also when the answer is complete with this piece
            self.fail(error)
            return True
        if has_enough:
            self._sink = None
        return has_enough or self.answer.complete

    def eof_received(self) -> None:
        """Close: a node that sends nothing more has no use for what we still send."""
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the socket is closed."""
        self._ended(exc)
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        """Hold the body back; the node has to take some of it before it stalls."""
        self._writing_paused = True
        self._unsent_bytes = self._transport.get_write_buffer_size()
        if not self.answer.has_head:
            self._clock.start(self._timeouts.stall_s)

    def resume_writing(self) -> None:
        """Let the body go on; with all of it sent, the wait for the answer begins."""
        self._writing_paused = False
        self._wake()
        if self.answer.has_head:
            return
        self._clock.stop()
        if self._request_sent:
            self._clock.start(self._first_byte_s)
