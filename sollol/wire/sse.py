"""Server-sent events out of a byte stream, however the network cut it."""

from sollol.errors import ProtocolViolation

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Far above any event of an engine; llama.cpp repeats the prompt in the last event of some answers."""

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Collects the ``data`` of events; names, ids and comments are dropped.

    Every split of the same bytes gives the same events. An event that no empty line has ended yet
    is not given out, as the standard asks.

    Source: WHATWG HTML, section 9.2.6, "Interpreting an event stream".
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._held_cr = False  # a final CR may be the first half of a CRLF
        self._line_parts: list[bytes] = []
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that ``chunk`` completes, in order.

        Raises:
            ProtocolViolation: a line or an event is longer than ``max_event_bytes``.
        """
        events: list[bytes] = []
        first, *rest = self._with_plain_line_ends(chunk).split(b"\n")
        self._extend_line(first)
        for part in rest:
            self._end_line(events)
            self._extend_line(part)
        return events

    def _with_plain_line_ends(self, chunk: bytes) -> bytes:
        if not self._held_cr and b"\r" not in chunk:
            return chunk
        text = b"\r" + chunk if self._held_cr else chunk
        self._held_cr = text.endswith(b"\r")
        if self._held_cr:
            text = text[:-1]
        return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _extend_line(self, part: bytes) -> None:
        self._line_bytes += len(part)
        if self._data_bytes + self._line_bytes > self._max_event_bytes:
            raise ProtocolViolation(f"an event is longer than {self._max_event_bytes} bytes")
        if part:
            self._line_parts.append(part)

    def _end_line(self, events: list[bytes]) -> None:
        line = b"".join(self._line_parts)
        self._line_parts.clear()
        self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line:
            self._read_field(line)
            return
        if self._data:
            events.append(b"\n".join(self._data))
            self._data.clear()
            self._data_bytes = 0

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._data.append(value)
        self._data_bytes += len(value)
