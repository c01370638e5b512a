"""Carries a node's answer to the client as it comes, and tells the truth about how it ended.

Nothing is sent to the client before the first byte of the node's body is here: up to that point
another node may still be tried. Streams leave in whole lines; every other body is held until it
is complete or longer than ``HOLD_BYTES``, so that a node which dies in the middle of it costs a
retry and not the answer. What is no answer of the route, however well HTTP says that it ended, costs
a retry too (``wire/answers.py``).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from sollol.errors import ProtocolViolation, UpstreamCut, UpstreamTimeout
from sollol.gateway.call import Call
from sollol.gateway.refusals import (
    HOLD_BYTES,
    MAX_TOLD,
    Headers,
    check_framing,
    content_type_of,
    failed,
    missing,
    no_answer,
    refusal,
)
from sollol.types import Measured, Task
from sollol.upstream.http import UpstreamResponse
from sollol.wire.answers import first_record, is_answer
from sollol.wire.bodies import JSON_UTF8, engine_error
from sollol.wire.measured import NOTHING_TOLD, measured_of_record, measured_of_stream, read_body
from sollol.wire.records import Record
from sollol.wire.streams import StreamFraming, WholeLines, last_record

TRANSLATE_BYTES = 64 * 1024 * 1024
"""The longest unstreamed answer that is translated; translating needs all of it."""

_OK, _NOT_FOUND, _LIMITED, _SERVER_ERROR = 200, 404, 429, 500
_ERROR_RECORDS = (b'{"error"', b'data: {"error"', b"event: error")
"""How the first record of a stream begins that is nothing but an error."""
_BROKEN = (UpstreamCut, UpstreamTimeout, ProtocolViolation)
"""What the body of an answer may end in instead of its end."""
_JSON = b"application/json"
_TELLING = (Task.CHAT, Task.GENERATE, Task.EMBED)
_EMBED, _OTHER = Task.EMBED, Task.OTHER
_UNTOLD = {Task.SHOW: None}
"""What is told of an answer whose text is not looked at, if not nothing: where nothing was to be done."""
_ANY_TYPE = (Task.TRANSCRIBE, Task.OTHER)
_PASSED_HEADERS = frozenset(
    {b"cache-control", b"content-encoding", b"content-type", b"retry-after"}
)


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

    ``pieces`` counts those of a stream, and ``measured`` is what the node told of its answer; None
    before its end, and of errors. The relay does not return it: a client that leaves ends it.

    Streams are pushed: their pieces go from the node's socket to the client's in one callback.
    """

    is_started = False
    is_stream = False
    is_whole = False
    has_early_head = False
    """The head has gone out, but nothing of an answer."""
    pieces = 0
    first = b""
    told_error = ""
    """What a node said went wrong, in a stream that it ended with that."""
    measured: Measured | None = None
    deadline: asyncio.Timeout | None = None
    """Until when the answer is to begin."""
    when_good: tuple[Callable[[], None], ...] = ()
    """To be done once the attempt under way begins to be answered with 200."""

    def __init__(self, answer: AnswerWriter, on_start: Callable[[int], Headers]) -> None:
        self.writer = answer
        self._on_start = on_start
        self.push: Callable[[bytes], bool] = answer.write
        self.wait_room = answer.wait_room

    def start(self, status: int, headers: Headers, *, is_stream: bool = False) -> None:
        """Decide the status line and headers; ``on_start(status)`` adds the gateway's own."""
        self._begin(status)
        self.is_stream = is_stream
        self.writer.start(status, headers + self._on_start(status))

    def start_early(self, headers: Headers, writer: AnswerWriter) -> None:
        """Send the head of a stream whose answer has not begun; ``writer`` is for that, without a head."""
        self.has_early_head = True
        self.writer.start(_OK, headers + self._on_start(_OK))
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; waits while the client is slow to read."""
        if self.writer.write(data):
            await self.wait_room()

    async def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the answer."""
        if self.writer.is_slow:
            await self.wait_room()
        self.writer.end(data)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        self._begin(status)
        self.writer.whole(status, headers + self._on_start(status), body)

    def _begin(self, status: int) -> None:
        self.is_started = True
        if self.when_good and status == _OK:
            for act in self.when_good:
                act()
        if self.deadline is not None:
            self.deadline.reschedule(None)


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

    @property
    def is_over(self) -> bool:
        """Whether all of the answer has come, though the stream may tell more of it, and end."""
        ...

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Return the caller's form of an error answer of the node."""
        ...

    def measured(self) -> Measured | None:
        """Return what the node told of its answer, once it has ended; None of an error."""
        ...


async def relay(
    upstream: UpstreamResponse, downstream: Downstream, call: Call | None = None
) -> None:
    """Pass an answer on in the dialect it came in.

    Args:
        call: what is answered. Of ``OTHER`` routes, and without one, nothing is known of answers: a
            stream is taken to be whole when HTTP says so.

    Raises:
        MissingOnNode, UpstreamStatus: the node answered 404, 429, 5xx, or with nothing but an error;
            nothing was passed on.
        WrongAnswer: what it answered is no answer of the route; nothing was passed on.
        UpstreamCut, UpstreamTimeout, ProtocolViolation: as the node failed.
    """
    if upstream.status == _NOT_FOUND:
        raise await missing(upstream, call)
    if upstream.status >= _SERVER_ERROR or upstream.status == _LIMITED:
        raise failed(upstream, upstream.content_type, await upstream.read_all(HOLD_BYTES))
    headers = [(name, value) for name, value in upstream.headers if name in _PASSED_HEADERS]
    framing = StreamFraming.of(upstream.content_type)
    if call is None or call.kind.task is _OTHER:
        call = None
    elif upstream.status != _OK:
        status, said = upstream.status, await refusal(upstream, call.model_key)
        downstream.answer(status, headers, engine_error(call.kind.dialect, status, said))
        return
    else:
        check_framing(upstream, framing, call)
    if framing is None:
        await _relay_body(upstream, downstream, headers, call)
        return
    await _relay_stream(upstream, downstream, headers, framing if call is not None else None)


async def _relay_stream(
    upstream: UpstreamResponse,
    downstream: Downstream,
    headers: Headers,
    framing: StreamFraming | None,
) -> None:
    lines = WholeLines()
    is_over = None if framing is None else partial(_is_over, lines, framing)
    try:
        await _pump(upstream, downstream, headers, lines.feed, framing, is_over)
    except _BROKEN:
        if is_over is None or not is_over():
            raise
    finally:  # also when the client leaves: many do so at the last record
        _note_end(upstream, downstream, lines, framing)
    if framing is None:
        downstream.measured = NOTHING_TOLD
    elif not downstream.is_whole:
        raise UpstreamCut("the node ended the stream before the answer was complete")
    await _finish(upstream.status, downstream, headers, lines.rest())


def _is_over(lines: WholeLines, framing: StreamFraming) -> bool:
    return last_record(lines.last_line(), framing) is not None


def _note_end(
    upstream: UpstreamResponse,
    downstream: Downstream,
    lines: WholeLines,
    framing: StreamFraming | None,
) -> None:
    """Take note whether a stream has come to its end, and of what the node told there."""
    last = None if framing is None else last_record(lines.last_line(), framing)
    is_unsaid = not downstream.is_started and last is not None and last.error is not None
    if last is not None and not is_unsaid:  # of an error instead of an answer nothing goes out
        downstream.is_whole = True
        if last.error is not None:
            downstream.told_error = lines.last_line()[:MAX_TOLD].decode("utf-8", "replace")
        if upstream.status == _OK:
            downstream.measured = measured_of_stream(last, downstream.first, lines.tail())


async def _pump(
    upstream: UpstreamResponse,
    downstream: Downstream,
    headers: Headers,
    records: Callable[[bytes], bytes],
    framing: StreamFraming | None,
    is_over: Callable[[], bool] | None,
) -> None:
    """Pass a stream on as it comes.

    Args:
        records: takes a piece of the node's stream and returns what it completes of the caller's.
        framing: how records are written, if they are passed on as they came and something is known
            of them.
        is_over: says whether the last record has come; then the end of the body is not waited for.
    """

    def pass_on(piece: bytes) -> bool:
        downstream.pieces += 1
        whole = records(piece)
        if whole:
            drip.completed()
            return downstream.push(whole)
        drip.came()
        return False

    drip = upstream.drip()
    while True:
        piece = await upstream.read()
        if not piece:
            return
        downstream.pieces += 1
        whole = records(piece)
        if whole and not whole.isspace():
            break
        drip.came()
    drip.completed()
    if _is_error(upstream, whole, framing):
        raise failed(upstream, content_type_of(headers), whole)
    downstream.first = whole
    downstream.start(upstream.status, headers, is_stream=True)
    if downstream.push(whole):
        await downstream.wait_room()
    while not await upstream.pump(pass_on, is_over):
        await downstream.wait_room()


def _is_error(upstream: UpstreamResponse, whole: bytes, framing: StreamFraming | None) -> bool:
    """Whether a stream begins with nothing but an error.

    Raises:
        WrongAnswer: it begins with no record at all.
    """
    if framing is None or whole.startswith(_ERROR_RECORDS):
        return whole.startswith(_ERROR_RECORDS)
    first = first_record(whole, framing)
    if first is None:
        raise no_answer(upstream, whole)
    return first.error is not None


async def _finish(status: int, downstream: Downstream, headers: Headers, rest: bytes) -> None:
    """End a stream, which may have nothing but its end."""
    if not downstream.is_started:
        downstream.start(status, headers, is_stream=True)
    await downstream.finish(rest)


async def _relay_body(
    upstream: UpstreamResponse, downstream: Downstream, headers: Headers, call: Call | None
) -> None:
    whole = upstream.take_whole()  # most short answers: they came with their head
    if whole is None:
        whole = await _held(upstream)
    told = None if upstream.status != _OK else _told(upstream, whole, call)
    if len(whole) > HOLD_BYTES:
        await _relay_long_body(upstream, downstream, headers, whole)
    downstream.measured = told
    if not downstream.is_started:
        downstream.answer(upstream.status, headers, whole)


async def _held(upstream: UpstreamResponse) -> bytes:
    """Return a body, or the beginning of one that is longer than ``HOLD_BYTES``."""
    held: list[bytes] = []
    size = 0
    drip = upstream.drip()
    while data := await upstream.read():
        held.append(data)
        size += len(data)
        drip.came(size)
        if size > HOLD_BYTES:
            break
    return b"".join(held)


def _told(upstream: UpstreamResponse, whole: bytes, call: Call | None) -> Measured | None:
    """Return what an answer tells of itself; of a long one nothing but its type is looked at.

    Raises:
        WrongAnswer, ProtocolViolation: it is none.
        UpstreamStatus: it is an error.
    """
    task = _OTHER if call is None else call.kind.task
    if task not in _TELLING or len(whole) > HOLD_BYTES:
        if task not in _ANY_TYPE and not _is_json(upstream, whole):
            raise no_answer(upstream, whole)
        return _UNTOLD.get(task, NOTHING_TOLD)
    try:
        record = read_body(whole, is_embedding=task is _EMBED)
    except ProtocolViolation:
        if _is_json(upstream, whole):
            raise
        if _is_plain_stream(upstream, whole):
            return NOTHING_TOLD
        raise no_answer(upstream, whole) from None
    if not is_answer(whole, record, task):
        if record is not None and record.error is not None:
            raise failed(upstream, upstream.content_type, whole)
        raise no_answer(upstream, whole)
    return _measured(record)


def _measured(record: Record | None) -> Measured | None:
    if record is None:
        return NOTHING_TOLD
    return None if record.error is not None else measured_of_record(record)


def _is_json(upstream: UpstreamResponse, whole: bytes) -> bool:
    """Whether a body seems to be an object, as far as that is to be seen without reading it."""
    is_json = upstream.content_type.startswith((_JSON, b"application/octet-stream"))
    return (is_json or not upstream.content_type) and whole.lstrip().startswith(b"{")


def _is_plain_stream(upstream: UpstreamResponse, whole: bytes) -> bool:
    """Whether these are the records of a stream that only calls itself another kind of text."""
    is_text = upstream.content_type.startswith(b"text/plain")
    return is_text and first_record(whole, StreamFraming.NDJSON) is not None


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
        UpstreamStatus: the node answered with nothing but an error; nothing was passed on.
        WrongAnswer: what it answered is no answer of the route; nothing was passed on.
        UpstreamCut, UpstreamTimeout, ProtocolViolation: as the node failed.
    """
    headers = [(b"content-type", translator.content_type)]
    if upstream.status != _OK:
        is_node = upstream.status >= _SERVER_ERROR or upstream.status == _LIMITED
        body = await (upstream.read_all(HOLD_BYTES) if is_node else refusal(upstream))
        status, body = translator.error(upstream.status, body)
        if status >= _SERVER_ERROR or status == _LIMITED:
            raise failed(upstream, JSON_UTF8, body, status)
        downstream.answer(status, [(b"content-type", JSON_UTF8)], body)
        return
    if not translator.streaming:
        translated = translator.feed(await upstream.read_all(TRANSLATE_BYTES)) + translator.finish()
        downstream.answer(_OK, headers, translated)
    else:
        if StreamFraming.of(upstream.content_type) is not StreamFraming.SSE:
            raise no_answer(upstream, b"")
        try:
            is_over = partial(_has_ended, translator)
            await _pump(upstream, downstream, headers, translator.feed, None, is_over)
        except _BROKEN:
            if not translator.is_over:
                raise
        await _finish(_OK, downstream, headers, translator.finish())
    downstream.measured = translator.measured()


def _has_ended(translator: Translator) -> bool:
    return translator.is_over
