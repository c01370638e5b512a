"""Writes one answer to a caller: status, headers and body, in as few packets as can be."""

import http
from collections.abc import Callable
from typing import Protocol

Headers = list[tuple[bytes, bytes]]


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}
_BODILESS = (204, 304)


class Sink(Protocol):
    """The connection that an answer goes out on (``api/protocol.py``)."""

    @property
    def is_slow(self) -> bool:
        """Whether the caller has not read what was written for it."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Writes soon, in this order."""
        ...

    async def wait_room(self) -> None:
        """Wait until the caller has read some; ClientDisconnected if it does not."""
        ...

    def abort(self) -> None:
        """Close at once; what is not written is lost."""
        ...

    def common_headers(self) -> bytes:
        """Return the lines of the headers that every answer has."""
        ...


class Answer:
    """One answer. Its head is held back and goes out with the first piece of the body.

    A body without a ``content-length`` goes out in chunks, or to an HTTP/1.0 caller as it is, up to
    the end of the connection. Everything but :meth:`wait_room` returns at once.

    Attributes:
        extra_headers: sent besides those given to :meth:`start`.
        is_last: the caller wants no other answer over the connection.
        keep_alive: the connection may carry another request afterwards.
        is_started, is_complete: the head is decided; the last byte is written.
    """

    __slots__ = (
        "_has_body",
        "_head",
        "_is_chunked",
        "_left_bytes",
        "_sink",
        "_speaks_chunks",
        "_write",
        "extra_headers",
        "is_complete",
        "is_last",
        "is_started",
        "keep_alive",
        "wait_room",
    )

    def __init__(self, sink: Sink, *, is_head: bool, speaks_chunks: bool, keep_alive: bool) -> None:
        self._sink = sink
        self._write = sink.write
        self._has_body = not is_head
        self._speaks_chunks = speaks_chunks
        self._is_chunked = False
        self._left_bytes: int | None = None
        self._head = b""
        self.extra_headers: Headers = []
        self.is_last = not keep_alive
        self.keep_alive = keep_alive
        self.is_started = False
        self.is_complete = False
        self.wait_room = sink.wait_room

    @property
    def is_slow(self) -> bool:
        """Whether the caller has not read what was written for it."""
        return self._sink.is_slow

    @property
    def ends_by_close(self) -> bool:
        """Whether nothing but the end of the connection tells the end of the body."""
        has_length = self._is_chunked or self._left_bytes is not None
        return self.is_started and self._has_body and not has_length

    def start(self, status: int, headers: Headers) -> None:
        """Decide the head: the status, the headers (names in lower case) and the framing."""
        self._left_bytes = None
        for name, value in headers:
            if name == b"content-length":
                self._left_bytes = int(value)
        if status in _BODILESS:
            self._has_body = False
        self._is_chunked = self._left_bytes is None and self._has_body and self._speaks_chunks
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        if self._left_bytes is None and self._has_body and not self._speaks_chunks:
            self.keep_alive = False
        self._head = self._rendered(status, headers, framing)

    def write(self, data: bytes) -> bool:
        """Write a piece of the body at once; return whether the caller is slow to read."""
        if not data or not self._has_body:  # an empty chunk would end the body
            return self._sink.is_slow
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._left_bytes is not None:
            self._left_bytes -= len(data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._write(data)
        return self._sink.is_slow

    def end(self, data: bytes = b"") -> None:
        """Write the last piece and end the answer.

        A body of another length than was promised cannot be told from a cut one, so it is made
        one: the connection is closed at once.
        """
        if not self._has_body:
            self._close_body(b"")
            return
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
            self._close_body(chunk)
            return
        if self._left_bytes is not None and self._left_bytes != len(data):
            self._sink.abort()
            return
        self._close_body(data)

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer whose body is here; its length is added to the headers."""
        if status in _BODILESS:
            self._has_body = False
        length = b"" if status in _BODILESS else b"content-length: %d\r\n" % len(body)
        head = self._rendered(status, headers, length)
        self._write(head + body if self._has_body else head)
        self.is_complete = True

    def abort(self) -> None:
        """Close the connection at once; what is not written is lost."""
        self._sink.abort()

    def _rendered(self, status: int, headers: Headers, framing: bytes) -> bytes:
        self.is_started = True
        if self.extra_headers:
            headers = headers + self.extra_headers
        lines = [b": ".join(header) for header in headers]
        lines.append(framing + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"))
        return _STATUS_LINES[status] + self._sink.common_headers() + b"\r\n".join(lines)

    def _close_body(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self._write(head + data)
        self.is_complete = True
