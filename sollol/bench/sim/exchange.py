"""The answer to one request, written as Go's net/http writes it."""

import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from sollol.bench.sim.http import Connection, Header, Request

JSON = b"application/json; charset=utf-8"
PLAIN_JSON = b"application/json"
UNCACHED: tuple[Header, ...] = ((b"Cache-Control", b"no-cache"), (b"Connection", b"keep-alive"))
"""What ``/v1/messages`` and ``/v1/responses`` say of a stream, also of one that is refused."""
_STATUS_LINES: dict[int, bytes] = {
    status: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


@lru_cache(maxsize=4)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class Exchange:
    """The answer to one request, written as Go writes it."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.status = 0
        self.headers: list[Header] = []
        """Headers beside the content's own; written in order of their names."""
        self._head = b""

    def respond(
        self, status: int, body: bytes = b"", content_type: bytes = JSON, *, bare: bool = False
    ) -> None:
        """Answer with a body of known length; ``bare`` leaves type and length out."""
        self.status = status
        fields = [] if bare else [(b"Content-Length", str(len(body)).encode())]
        head = self._render_head(content_type if body else b"", fields)
        self._write(head if self.request.method == "HEAD" else head + body)

    def start_stream(self, content_type: bytes, status: int = 200) -> None:
        """Begin an answer of records; its head goes out with the first of them."""
        self.status = status
        fields = [(b"Transfer-Encoding", b"chunked")] if self.request.http11 else []
        self.request.keep_alive = self.request.keep_alive and self.request.http11
        self._head = self._render_head(content_type, fields)

    def write_record(self, record: bytes) -> bool:
        """Write one record as one chunk; return whether the answer goes on."""
        self._write(self._take_head() + self._chunk(record))
        return True

    def write_records(self, records: Sequence[bytes]) -> bool:
        """Write several records in one go, a chunk each; return whether the answer goes on."""
        self._write(self._take_head() + b"".join(map(self._chunk, records)))
        return True

    async def end_stream(self) -> None:
        """End an answer of records."""
        self._write(self._take_head() + (b"0\r\n\r\n" if self.request.http11 else b""))

    async def finish(self) -> None:
        """Wait for whatever the answer still needs; called once, last."""

    def _chunk(self, record: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(record), record) if self.request.http11 else record

    def _take_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    def _write(self, data: bytes) -> None:
        self.connection.write(data)

    def _render_head(self, content_type: bytes, framing: list[Header]) -> bytes:
        own = [(b"Content-Type", content_type)] if content_type else []
        fields = sorted([*self.headers, *own]) if self.headers else own
        if not self.request.keep_alive:  # Go puts its own in the place of the handler's
            fields = [field for field in fields if field[0] != b"Connection"]
        fields = [*fields, (b"Date", _date(int(time.time()))), *framing]
        if not self.request.keep_alive:
            fields.append((b"Connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % pair for pair in fields])
        status_line = _STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status
        return status_line + lines + b"\r\n"
