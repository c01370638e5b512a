"""Answers of a node, parsed from bytes as they come. No I/O.

httptools finds the framing; here are the bounds, what the end of the connection means, and what
makes a connection fit for another request.
"""

import httptools

from sollol.errors import ProtocolViolation
from sollol.upstream import failures

MAX_HEAD_BYTES = 65_536
"""For a response head with the interim (1xx) ones before it, and for the trailers."""
MAX_HEADERS = 200
_SWITCHING_PROTOCOLS = 101
_NO_PARSER = httptools.HttpResponseParser(object())
"""In place of one that is needed no more."""


class AnswerParser:
    """Reads the answers of one connection, one after another.

    :meth:`expect` begins an answer, :meth:`feed` and :meth:`end` take what the network brings,
    :meth:`take` gives out the body. The rest are callbacks of httptools.

    Attributes:
        status, headers: the final response head, valid once ``has_head``; names in lower case.
        pieces: parts of the body not yet taken, ``buffered_bytes`` long in all.
        started: a byte of the answer has come.
        complete: the whole message has come.
        keep_alive: valid once ``complete``; the connection may carry another request.
    """

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._parser = httptools.HttpResponseParser(self)
        self._parser_spent = False
        self.expect("GET")

    def expect(self, method: str) -> None:
        """Get ready for the answer to a request with ``method``."""
        if self._parser_spent:
            self._parser = httptools.HttpResponseParser(self)
            self._parser_spent = False
        self._to_head = method == "HEAD"
        self._interim = False
        self._until_eof = False
        self._head_bytes = 0
        self._fed_bytes = 0
        self._bodiless_bytes = 0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.content_type = b""
        self.content_length: int | None = None
        self.pieces: list[bytes] = []
        self.buffered_bytes = 0
        self.started = False
        self.has_head = False
        self.complete = False
        self.keep_alive = False

    def feed(self, data: bytes) -> None:
        """Take bytes that came from the node.

        Raises:
            ProtocolViolation: they are not HTTP/1.1, or go over a bound.
        """
        self.started = True
        if self.complete:  # nobody asked for more
            self.keep_alive = False
            return
        if not self.has_head:
            self._fed_bytes += len(data)
        buffered_bytes = self.buffered_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._parsing_failed(error)
        if self.buffered_bytes == buffered_bytes:
            self._bound_bodiless(len(data))
        else:
            self._bodiless_bytes = 0

    def _parsing_failed(self, error: Exception) -> None:
        if not self.complete:
            raise self._as_violation(error) from error
        self.keep_alive = False

    def _bound_bodiless(self, size_bytes: int) -> None:
        """Bound what the parser keeps but has not shown: a head or trailers without an end."""
        self._bodiless_bytes += size_bytes
        if self._bodiless_bytes > MAX_HEAD_BYTES and not self.complete:
            raise failures.violation(self._authority, f"over {MAX_HEAD_BYTES} bytes of headers")

    def end(self, cause: Exception | None) -> None:
        """Take note that the connection ended; ``cause`` is None for an orderly end.

        Raises:
            UpstreamCut: the answer is not complete.
        """
        self.keep_alive = False
        if self.complete:
            return
        if not self._until_eof or cause is not None:
            raise failures.cut(self._authority, cause, in_body=self.has_head)
        self.complete = True

    def close(self) -> None:
        """Let the parser go, which has our callbacks; no more bytes come."""
        self._parser = _NO_PARSER

    def take(self) -> bytes:
        """Return all of the body that is here, in one piece."""
        pieces = self.pieces
        self.pieces = []
        self.buffered_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _as_violation(self, error: Exception) -> ProtocolViolation:
        if isinstance(error.__context__, ProtocolViolation):  # one of our callbacks raised it
            return error.__context__
        return failures.violation(self._authority, error)

    def on_message_begin(self) -> None:
        """Note a second answer where one was asked for."""
        if self.complete:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped."""
        if not self.has_head:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Read the status and the framing, and drop an interim answer."""
        if self.has_head:
            return
        self._bound_head()
        status = self._parser.get_status_code()
        if not 100 <= status <= 599 or status == _SWITCHING_PROTOCOLS:
            raise failures.violation(self._authority, f"unexpected status {status}")
        if status < 200:
            self._interim = True
            self.headers.clear()
            return
        self.status = status
        self._read_framing(status)
        self.has_head = True
        if self._to_head:  # httptools goes on to expect the body that the headers describe
            self._parser_spent = True
            self._complete()

    def _bound_head(self) -> None:
        """Bound what the parser has shown; ``_bound_bodiless`` has bounded it while it came."""
        if len(self.headers) > MAX_HEADERS:
            raise failures.violation(self._authority, f"over {MAX_HEADERS} headers")
        if self._fed_bytes <= MAX_HEAD_BYTES:
            return
        self._head_bytes += sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise failures.violation(self._authority, f"over {MAX_HEAD_BYTES} bytes of headers")

    def _read_framing(self, status: int) -> None:
        has_coding = False
        for name, value in self.headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = int(value)
            elif name == b"transfer-encoding":
                has_coding = True
                if value.lower() != b"chunked":
                    raise failures.violation(self._authority, f"transfer encoding {value!r}")
        has_length = has_coding or self.content_length is not None
        self._until_eof = not has_length and status not in (204, 304)

    def on_body(self, piece: bytes) -> None:
        """Keep a part of the body."""
        if self.complete:  # a body after HEAD
            self.keep_alive = False
            return
        self.pieces.append(piece)
        self.buffered_bytes += len(piece)

    def on_message_complete(self) -> None:
        """End the answer, or the interim one."""
        if self._interim:
            self._interim = False
        elif not self.complete:
            self._complete()

    def _complete(self) -> None:
        self.complete = True
        # httptools knows it only inside this callback; later it always says no.
        self.keep_alive = self._parser.should_keep_alive()
