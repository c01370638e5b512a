"""Requests of one connection, parsed from bytes as they come and kept within bounds. No I/O.

httptools finds the framing. Here are the bounds it does not have, what it leaves ambiguous, and
offers to speak another protocol, which a server is free to ignore and Java's and curl's clients
make with any request.
"""

from collections.abc import Callable

import httptools

from sollol.api.request import Headers, Request

_FRAMES_BODY = frozenset({b"content-length", b"transfer-encoding"})

BAD_REQUEST = b"400 Bad Request"
HEAD_TOO_LARGE = b"431 Request Header Fields Too Large"
UNKNOWN_VERSION = b"505 HTTP Version Not Supported"


class Head:
    """The head of a request: names of headers in lower case, ``is_old`` for HTTP/1.0."""

    __slots__ = ("headers", "is_old", "keep_alive", "method", "target")

    def __init__(
        self, method: str, target: bytes, headers: Headers, is_old: bool, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.is_old = is_old
        self.keep_alive = keep_alive


class Refused(Exception):
    """What came is no request that may be answered; ``status`` is the end of a status line."""

    def __init__(self, status: bytes) -> None:
        super().__init__(status.decode())
        self.status = status


class RequestParser:
    """Feeds each request with its body.

    ``on_head`` makes the request of a head (or of none, to have it refused), ``on_end`` is told
    that its body is complete.

    Attributes:
        is_in_head: a head has begun, or the first one is waited for.
        begun: how many requests have begun.
    """

    __deletable__ = ["_parser", "_on_head", "_on_end"]  # noqa: RUF012, how mypyc wants to be told

    def __init__(
        self,
        *,
        max_header_bytes: int,
        max_headers: int,
        on_head: Callable[[Head], Request | None],
        on_end: Callable[[Request], None],
    ) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self._on_head = on_head
        self._on_end = on_end
        self._request: Request | None = None
        self._parser = httptools.HttpRequestParser(self)
        # What follows the last request of a connection is no fault of that request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.is_in_head = True
        self.begun = 0
        self._refusal: bytes | None = None
        self._target = b""
        self._headers: Headers = []
        self._hosts = 0
        self._bodiless_bytes = 0
        self._framing = b""
        self._is_reframing = False

    def feed(self, data: bytes) -> None:
        """Take bytes that came.

        Raises:
            Refused: nothing more of this connection may be looked at.
        """
        self._bodiless_bytes += len(data)
        while data:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offer:  # not taken up: go on behind the head
                data = self._framing + data[offer.args[0] :]
                self._is_reframing = bool(self._framing)
                self._framing = b""
            except httptools.HttpParserError as error:
                raise Refused(self._refusal or BAD_REQUEST) from error
            if self._refusal is not None:
                break
        if self._refusal is not None:
            raise Refused(self._refusal)
        if self._bodiless_bytes > self._max_header_bytes:  # head, trailers, chunk extensions
            raise Refused(HEAD_TOO_LARGE)

    def close(self) -> None:
        """Let go of what refers back here: nothing comes any more, and memory is free at once."""
        del self._parser, self._on_head, self._on_end

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """Begin a head."""
        if self._is_reframing:
            return
        self.is_in_head = True
        self.begun += 1
        self._target = b""
        self._headers = []
        self._hosts = 0

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        if not self._is_reframing:
            self._target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the head is a trailer, which nobody needs."""
        if self._is_reframing:
            return
        if not self.is_in_head:
            self._bodiless_bytes += len(name) + len(value)
            return
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse what is ambiguous or too much before any of it is acted on."""
        if self._is_reframing:
            self._is_reframing = False
            return
        self.is_in_head = False
        if self._refusal is not None:
            return
        parser = self._parser
        version, method = parser.get_http_version(), parser.get_method()
        self._refusal = self._why_refused(version, method)
        if self._refusal is not None:
            return
        if parser.should_upgrade():
            self._frame_again()
        is_old = version == "1.0"
        keep_alive = not is_old and parser.should_keep_alive()
        head = Head(method.decode("ascii"), self._target, self._headers, is_old, keep_alive)
        self._request = self._on_head(head)
        if self._request is None:
            self._refusal = BAD_REQUEST

    def on_body(self, piece: bytes) -> None:
        """Hand a piece of the body on."""
        self._bodiless_bytes = 0
        if self._request is not None:
            self._request.feed(piece)

    def on_message_complete(self) -> None:
        """Tell of the end, unless the body is still to be framed."""
        if self._framing:
            return
        self._bodiless_bytes = 0
        request, self._request = self._request, None
        if request is not None:
            request.end()
            self._on_end(request)

    def _why_refused(self, version: str, method: bytes) -> bytes | None:
        if version not in ("1.0", "1.1"):
            return UNKNOWN_VERSION
        if len(self._headers) > self._max_headers or self._bodiless_bytes_in_head():
            return HEAD_TOO_LARGE
        if self._hosts > 1 or (not self._hosts and version == "1.1") or method == b"CONNECT":
            return BAD_REQUEST
        return None

    def _bodiless_bytes_in_head(self) -> bool:
        """Whether a head is too long that came together with its body."""
        if self._bodiless_bytes <= self._max_header_bytes:
            return False
        length = len(self._target) + sum(
            len(name) + len(value) + 4 for name, value in self._headers
        )
        return length > self._max_header_bytes

    def _frame_again(self) -> None:
        """Prepare for httptools to end a request with its head because it offers an upgrade.

        Its body would be taken for the next request. A made-up head, whose callbacks are ignored,
        frames it again.
        """
        framing = [b"%b: %b\r\n" % line for line in self._headers if line[0] in _FRAMES_BODY]
        if framing:
            self._framing = b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n"
