"""Framing of streamed answers: whole lines only, and whether the stream was complete.

Clients parse what one read gives them, and many cannot take half a line. Holding the unfinished
line back also means that a stream which breaks off inside a line can still end in a well-formed
error record.
"""

from enum import Enum
from functools import lru_cache

from sollol.errors import ProtocolViolation
from sollol.wire.measured import read_record
from sollol.wire.records import DONE, Record

MAX_LINE_BYTES = 8 * 1024 * 1024
"""The longest line the Go client reads; a node that sends a longer one is broken."""


class StreamFraming(Enum):
    """How the records of a stream are written."""

    NDJSON = b"application/x-ndjson"
    SSE = b"text/event-stream"

    @classmethod
    def of(cls, content_type: bytes) -> "StreamFraming | None":
        """The framing of an answer with this ``Content-Type``; None when it is no stream."""
        return _framing_of(content_type)


_LAST_EVENTS = frozenset(
    {
        "message_stop",  # /v1/messages
        "response.completed",  # /v1/responses, and the two below
        "response.failed",
        "response.incomplete",
        "error",  # both
        "transcript.text.done",  # /v1/audio/transcriptions
    }
)

_FRAMINGS = {framing.value: framing for framing in StreamFraming}


@lru_cache(maxsize=64)
def _framing_of(content_type: bytes) -> StreamFraming | None:
    return _FRAMINGS.get(content_type.partition(b";")[0].strip().lower())


class WholeLines:
    """Turns pieces of a stream into pieces that end at the end of a line."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._last = b""
        self._before = b""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived; return the whole lines that this completes, possibly none.

        Raises:
            ProtocolViolation: a line is longer than ``MAX_LINE_BYTES``.
        """
        if not self._partial and data.endswith(b"\n"):
            if len(data) > len(b"\r\n") or data.strip():  # not the empty line that ends an event
                self._before = self._last
                self._last = data
            return data
        end = data.rfind(b"\n") + 1
        if not end:
            self._partial += data
            if len(self._partial) > MAX_LINE_BYTES:
                raise ProtocolViolation(f"the node sent a line of over {MAX_LINE_BYTES} bytes")
            return b""
        whole = bytes(self._partial) + data[:end]
        self._partial = bytearray(data[end:])
        if whole.strip():
            self._before = self._last
            self._last = whole
        return whole

    def rest(self) -> bytes:
        """What is held back: a last line without its line feed."""
        return bytes(self._partial)

    def last_line(self) -> bytes:
        """The last line seen that is not empty, without its line feed."""
        return (bytes(self._partial) or self._last).rstrip().rpartition(b"\n")[2]

    def tail(self) -> bytes:
        """The last lines seen: those of two pieces at least, and what is held back."""
        return b"".join((self._before, self._last, self._partial))


def last_record(line: bytes, framing: StreamFraming) -> Record | None:
    """Return what ``line`` says if it may end a stream, else None.

    Such are the ``done`` record, ``[DONE]``, a last event and an error. A stream that ends in any
    other line was cut short, however cleanly its connection closed.
    """
    if framing is StreamFraming.SSE:
        return _last_event(line[len(b"data:") :].strip()) if line.startswith(b"data:") else None
    record = read_record(line)
    return record if record and (record.done or record.error is not None) else None


def _last_event(data: bytes) -> Record | None:
    if data == b"[DONE]":
        return DONE
    event = read_record(data)
    return event if event and (event.type in _LAST_EVENTS or event.error is not None) else None
