"""Carries a node's answer to the client as it comes, and tells the truth about how it ended.

Nothing is sent to the client before the first byte of the node's body is here: up to that point
another node may still be tried. Streams leave in whole lines; every other body is held until it
is complete or longer than ``HOLD_BYTES``, so that a node which dies in the middle of it costs a
retry and not the answer.
"""

from collections.abc import Callable
from typing import Protocol

from sollol.errors import MissingOnNode, UpstreamCut
from sollol.upstream.http import UpstreamResponse
from sollol.wire.bodies import JSON_UTF8
from sollol.wire.streams import StreamFraming, WholeLines, is_final

HOLD_BYTES = 1024 * 1024
TRANSLATE_BYTES = 64 * 1024 * 1024
"""The longest unstreamed answer that is translated; translating needs all of it."""

Headers = list[tuple[bytes, bytes]]

_NOT_FOUND = 404
_PASSED_HEADERS = frozenset({b"cache-control", b"content-type", b"retry-after"})


class AnswerWriter(Protocol):
    """Writes the answer to the caller at once (``api/answer.py``)."""

    def start(self, status: int, headers: Headers) -> None:
        """Decide the head; it goes out with the first piece of the body."""
        ...

    def write(self, data: bytes) -> bool:
        """Write a piece of the body; return whether the client is slow to read."""
        ...

    def end(self, data: bytes = b"") -> None:
        """Write the last piece and end the answer."""
        ...

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer; its length is added to the headers."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether the client has not read what was written for it."""
        ...

    async def wait_room(self) -> None:
        """Wait until the client has read some; ClientDisconnected if it does not."""
        ...


class Downstream:
    """The answer to the client. ``is_started`` is the commit point: the status has gone out.

    ``is_whole`` says that the last record of a stream has gone out, if not yet the end of its body.

    Streams are pushed: their pieces go from the node's socket to the client's in one callback.
    """

    def __init__(self, answer: AnswerWriter, on_start: Callable[[int], Headers]) -> None:
        self._answer = answer
        self._on_start = on_start
        self.push = answer.write
        self.wait_room = answer.wait_room
        self.is_started = False
        self.is_stream = False
        self.is_whole = False

    def start(self, status: int, headers: Headers, *, is_stream: bool = False) -> None:
        """Decide the status line and headers; ``on_start(status)`` adds the gateway's own."""
        self.is_started = True
        self.is_stream = is_stream
        self._answer.start(status, headers + self._on_start(status))

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client is slow to read."""
        if self._answer.write(data):
            await self.wait_room()

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the answer."""
        if self._answer.is_slow:
            await self.wait_room()
        self._answer.end(data)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        self.is_started = True
        self._answer.whole(status, headers + self._on_start(status), body)


class Translator(Protocol):
    """Turns a node's answer into the caller's dialect (``wire/translate_response.py``)."""

    @property
    def streaming(self) -> bool:
        """Whether the caller gets a stream."""
        ...

    @property
    def content_type(self) -> bytes:
        """The content type of the translated answer."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the node's answer; return what it completes."""
        ...

    def finish(self) -> bytes:
        """Return the rest, at the end of the node's answer; UpstreamCut if it was not whole."""
        ...

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Return the caller's form of an error answer of the node."""
        ...


async def relay(
    upstream: UpstreamResponse, downstream: Downstream, *, is_known: bool = True
) -> None:
    """Pass an answer on in the dialect it came in.

    Args:
        is_known: we know how a stream of this route ends; one of another is taken to be whole when
            HTTP says so.

    Raises:
        MissingOnNode: the node answered 404; nothing was passed on.
        UpstreamCut, UpstreamTimeout, ProtocolViolation: as the node failed.
    """
    if upstream.status == _NOT_FOUND:
        raise await _missing(upstream)
    framing = StreamFraming.of(upstream.content_type)
    headers = [(name, value) for name, value in upstream.headers if name in _PASSED_HEADERS]
    if framing is None:
        await _relay_body(upstream, downstream, headers)
        return
    await _relay_stream(upstream, downstream, headers, framing if is_known else None)


async def _missing(upstream: UpstreamResponse) -> MissingOnNode:
    body = await upstream.read_all(HOLD_BYTES)
    is_text = upstream.content_type.startswith(b"text/plain")
    text = body[:200].decode("utf-8", "replace")
    return MissingOnNode(text, upstream.content_type, body, lacks_route=is_text)


async def _relay_stream(
    upstream: UpstreamResponse,
    downstream: Downstream,
    headers: Headers,
    framing: StreamFraming | None,
) -> None:
    lines = WholeLines()
    try:
        await _pump(upstream, downstream, headers, lines.feed)
    finally:  # also when the client leaves: many do so at the last record
        downstream.is_whole = framing is not None and is_final(lines.last_line(), framing)
    if framing is not None and not downstream.is_whole:
        raise UpstreamCut("the node ended the stream before the answer was complete")
    await _finish(upstream.status, downstream, headers, lines.rest())


async def _pump(
    upstream: UpstreamResponse,
    downstream: Downstream,
    headers: Headers,
    records: Callable[[bytes], bytes],
) -> None:
    """Pass a stream on as it comes.

    Args:
        records: takes a piece of the node's stream and returns what it completes of the caller's.
    """

    def pass_on(piece: bytes) -> bool:
        whole = records(piece)
        return downstream.push(whole) if whole else False

    whole = b""
    while not whole:
        piece = await upstream.read()
        if not piece:
            return
        whole = records(piece)
    downstream.start(upstream.status, headers, is_stream=True)
    if downstream.push(whole):
        await downstream.wait_room()
    while not await upstream.pump(pass_on):
        await downstream.wait_room()


async def _finish(status: int, downstream: Downstream, headers: Headers, rest: bytes) -> None:
    """End a stream, which may have nothing but its end."""
    if not downstream.is_started:
        downstream.start(status, headers, is_stream=True)
    await downstream.finish(rest)


async def _relay_body(upstream: UpstreamResponse, downstream: Downstream, headers: Headers) -> None:
    whole = upstream.take_whole()
    if whole is not None:  # most short answers: they came with their head
        downstream.answer(upstream.status, headers, whole)
        return
    held: list[bytes] = []
    size = 0
    while data := await upstream.read():
        held.append(data)
        size += len(data)
        if size > HOLD_BYTES:
            await _relay_long_body(upstream, downstream, headers, b"".join(held))
            return
    downstream.answer(upstream.status, headers, b"".join(held))


async def _relay_long_body(
    upstream: UpstreamResponse, downstream: Downstream, headers: Headers, held: bytes
) -> None:
    if upstream.content_length is not None:
        headers.append((b"content-length", b"%d" % upstream.content_length))
    downstream.start(upstream.status, headers)
    await downstream.write(held)
    while data := await upstream.read():
        await downstream.write(data)
    await downstream.finish()


async def relay_translated(
    upstream: UpstreamResponse, downstream: Downstream, translator: Translator
) -> None:
    """Pass an answer on in the caller's dialect.

    Raises:
        UpstreamCut, UpstreamTimeout, ProtocolViolation: as the node failed.
    """
    headers = [(b"content-type", translator.content_type)]
    if upstream.status != 200:
        body = await upstream.read_all(HOLD_BYTES)
        status, body = translator.error(upstream.status, body)
        downstream.answer(status, [(b"content-type", JSON_UTF8)], body)
        return
    if not translator.streaming:
        translated = translator.feed(await upstream.read_all(TRANSLATE_BYTES)) + translator.finish()
        downstream.answer(200, headers, translated)
        return
    await _pump(upstream, downstream, headers, translator.feed)
    await _finish(200, downstream, headers, translator.finish())
