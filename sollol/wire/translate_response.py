"""Answers of llama-server's text routes as Ollama's, while they arrive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sollol.errors import ProtocolViolation, UpstreamCut
from sollol.types import Measured
from sollol.wire.llama_chunks import Candidate, Logprob, Piece, Reader, Timings, Usage, read_error
from sollol.wire.measured import measured_of_timings
from sollol.wire.ollama import (
    JSON_TYPE,
    NDJSON_TYPE,
    Clock,
    TextPart,
    TextRecords,
    error_record,
)
from sollol.wire.sse import SseParser
from sollol.wire.text_metrics import Stopwatch, text_metrics
from sollol.wire.tool_calls import ToolCalls

MAX_BODY_BYTES = 256 * 1024 * 1024
_IMPOSSIBLE_LOGPROB = -9999.0  # JSON has no infinity


class ResponseTranslator(Protocol):
    """Turns the body of one answer of a node into the body for the caller."""

    streaming: bool
    content_type: bytes

    def feed(self, data: bytes) -> bytes:
        """Take bytes of a 200 answer; return whole records to send, possibly none.

        Raises:
            ProtocolViolation: the bytes are not what the node's API promises.
        """
        ...

    def finish(self) -> bytes:
        """Return the rest, when the node's answer has ended.

        Raises:
            UpstreamCut: the node had more to say.
            ProtocolViolation: the answer is not what the node's API promises.
        """
        ...

    @property
    def is_over(self) -> bool:
        """Whether all of the answer has come, though the stream may tell more of it, and end."""
        ...

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Return Ollama's status and body for an answer with an error status.

        Raises:
            InputTooLong: a text to embed is too long for the node.
        """
        ...

    def measured(self) -> Measured | None:
        """Return the node's own numbers, when its answer has ended; None of an error."""
        ...


@dataclass(frozen=True, slots=True)
class TextCall:
    """What a translator knows of the request.

    ``missing`` is the error for a node that has the route but not the ability (501); ``started_ns``
    is of the clock's monotonic time.
    """

    records: TextRecords
    read: Reader
    clock: Clock
    started_ns: int
    top_logprobs: int = 0
    missing: str = ""


class _Answer:
    """The state of one answer: what came, and what the last record has to say of it."""

    def __init__(self, call: TextCall) -> None:
        self._call = call
        self._stopwatch = Stopwatch(call.clock, call.started_ns)
        self._tool_calls = ToolCalls()
        self._timings: Timings | None = None
        self._usage: Usage | None = None
        self.finish_reason = ""

    def take(self, piece: Piece) -> TextPart:
        """Remember what the piece says of the whole answer; return what it adds to the text."""
        self.finish_reason = piece.finish_reason or self.finish_reason
        self._timings = piece.timings or self._timings
        self._usage = piece.usage or self._usage
        for tool_call in piece.tool_calls:
            self._tool_calls.add(tool_call)
        logprobs = [_ollama_logprob(item, self._call.top_logprobs) for item in piece.logprobs]
        return TextPart(piece.content, piece.thinking, logprobs=logprobs)

    def note_token(self) -> None:
        self._stopwatch.note_token()

    def tool_calls(self) -> Sequence[dict[str, Any]]:
        return self._tool_calls.whole(was_cut=self.finish_reason == "length")

    def measured(self) -> Measured:
        return measured_of_timings(self._timings, self._usage)

    def final_record(self, part: TextPart) -> bytes:
        done_reason = "length" if self.finish_reason == "length" else "stop"
        metrics = text_metrics(self._timings, self._usage, self._stopwatch)
        return self._call.records.final(part, done_reason, metrics)


class TextStream:
    """Server-sent events to NDJSON records, each sent as soon as its event is whole."""

    streaming = True
    content_type = NDJSON_TYPE

    def __init__(self, call: TextCall) -> None:
        self._call = call
        self._events = SseParser()
        self._answer = _Answer(call)
        self._ended = False
        self._has_failed = False

    def feed(self, data: bytes) -> bytes:
        """See :class:`ResponseTranslator`."""
        return b"".join(map(self._lines_of, self._events.feed(data)))

    def finish(self) -> bytes:
        """See :class:`ResponseTranslator`."""
        if self._ended:
            return b""
        if not self._answer.finish_reason:
            raise UpstreamCut("the node's stream ended before the answer was complete")
        return self._end()

    @property
    def is_over(self) -> bool:
        """See :class:`ResponseTranslator`."""
        return self._ended or bool(self._answer.finish_reason)

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """See :class:`ResponseTranslator`."""
        return _text_error(self._call, status, body)

    def measured(self) -> Measured | None:
        """See :class:`ResponseTranslator`."""
        return None if self._has_failed else self._answer.measured()

    def _lines_of(self, event: bytes) -> bytes:
        if self._ended or not event.strip():
            return b""
        if event.strip() == b"[DONE]":
            return self._end()
        piece = self._call.read(event)
        if piece.error is not None:
            self._ended = self._has_failed = True
            return error_record(piece.error) + b"\n"
        part = self._answer.take(piece)
        if piece.tool_calls:
            self._answer.note_token()
        if not (part.content or part.thinking or part.logprobs):
            return b""
        self._answer.note_token()
        return self._call.records.part(part) + b"\n"

    def _end(self) -> bytes:
        self._ended = True
        tool_calls = self._answer.tool_calls()
        lines = []
        if tool_calls:
            lines.append(self._call.records.part(TextPart(tool_calls=tool_calls)))
        lines.append(self._answer.final_record(TextPart()))
        return b"\n".join(lines) + b"\n"


class TextBody:
    """One JSON body to one record."""

    streaming = False
    is_over = False
    content_type = JSON_TYPE

    def __init__(self, call: TextCall) -> None:
        self._call = call
        self._body = BoundedBody()
        self._measured: Measured | None = None

    def feed(self, data: bytes) -> bytes:
        """See :class:`ResponseTranslator`; returns nothing, the record comes at the end."""
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """See :class:`ResponseTranslator`."""
        piece = self._call.read(self._body.whole())
        if piece.error is not None:
            raise ProtocolViolation(piece.error)
        answer = _Answer(self._call)
        part = answer.take(piece)
        if not answer.finish_reason:
            raise ProtocolViolation("the node's answer has no finish reason")
        self._measured = answer.measured()
        whole = TextPart(part.content, part.thinking, answer.tool_calls(), part.logprobs)
        return answer.final_record(whole)

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """See :class:`ResponseTranslator`."""
        return _text_error(self._call, status, body)

    def measured(self) -> Measured | None:
        """See :class:`ResponseTranslator`."""
        return self._measured


class BoundedBody:
    """Collects a body that is only understood whole."""

    def __init__(self, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._body = bytearray()
        self._max_bytes = max_bytes

    def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ProtocolViolation: they are too many.
        """
        if len(self._body) + len(data) > self._max_bytes:
            raise ProtocolViolation(f"the node's answer is longer than {self._max_bytes} bytes")
        self._body += data

    def whole(self) -> bytes:
        """Return the body.

        Raises:
            UpstreamCut: nothing came.
        """
        if not self._body:
            raise UpstreamCut("the node's answer is empty")
        return bytes(self._body)


def _text_error(call: TextCall, status: int, body: bytes) -> tuple[int, bytes]:
    if call.missing and status == 501:
        return 400, error_record(call.missing)
    return status, error_record(read_error(status, body))


def _ollama_logprob(item: Logprob, top_logprobs: int) -> dict[str, Any]:
    told = _ollama_candidate(item)
    if top_logprobs and item.top_logprobs:
        told["top_logprobs"] = [_ollama_candidate(c) for c in item.top_logprobs[:top_logprobs]]
    return told


def _ollama_candidate(candidate: Candidate) -> dict[str, Any]:
    logprob = candidate.logprob
    told: dict[str, Any] = {
        "token": candidate.token,
        "logprob": _IMPOSSIBLE_LOGPROB if logprob is None else logprob,
    }
    if candidate.bytes:
        told["bytes"] = candidate.bytes
    return told
