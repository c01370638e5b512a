"""Writes lines of the log, from a thread and a few milliseconds after they were logged.

A slow disk, or a pipe that nobody reads, must not stop the event loop. What every request logs is
made here too; all else comes through ``logs.py``.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

import msgspec
import structlog

GATHER_S = 0.1
"""How long lines are gathered before they are written together."""
LINES_AT_ONCE = 500
MAX_UNWRITTEN = 20_000
"""Lines kept while nobody takes them."""
FLUSH_S = 2.0
"""Longest wait for the last lines when the process ends."""

_ENCODE = msgspec.json.Encoder(enc_hook=str).encode


class _Output:
    """Where finished lines go: ``put`` is None where they have to go the way of all others."""

    def __init__(self) -> None:
        self.put: Callable[[bytes], None] | None = None
        self.flush: Callable[[], None] | None = None
        self.is_off = False


class _Second:
    """The text of the present second; most lines share theirs with the line before."""

    def __init__(self) -> None:
        self.number = -1
        self.text = ""


_output = _Output()
_second = _Second()


def use(writer: "Writer", *, is_direct: bool, is_off: bool) -> None:
    """Write the lines of :func:`info` from now on with ``writer``.

    Args:
        is_direct: they are JSON, as they are made here.
        is_off: there are none.
    """
    _output.put = writer.put if is_direct else None
    _output.flush = writer.flush
    _output.is_off = is_off


def info(event: str, fields: dict[str, Any]) -> None:
    """Write a line of level ``info`` at a fifth of the cost, for what every request logs.

    The line is the same as any other's. ``fields`` are not looked through for secrets.

    Args:
        event: of letters and underscores, as it is not escaped.
        fields: at least one.
    """
    if _output.put is not None:
        begin = f'{{"timestamp":"{timestamp()}","level":"info","event":"{event}",'
        _output.put(begin.encode() + encoded(fields)[1:])
    elif not _output.is_off:
        structlog.get_logger().info(event, **fields)


def flush() -> None:
    """Return once every line is written, or after ``FLUSH_S`` if nobody takes them."""
    if _output.flush is not None:
        _output.flush()


def timestamp() -> str:
    """Return the time, RFC 3339 in UTC with microseconds."""
    now = time.time()
    second = int(now)
    if second != _second.number:
        _second.number = second
        _second.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return "%s.%06dZ" % (_second.text, (now - second) * 1_000_000)  # noqa: UP031, half the time


def encoded(line: dict[str, Any]) -> bytes:
    """Return a line as JSON."""
    try:
        return _ENCODE(line)
    except (TypeError, ValueError, OverflowError):  # half a character, a huge number, an odd key
        return json.dumps(line, default=str, skipkeys=True).encode()


class Writer:
    """Writes lines from a thread, in the order they were logged.

    Those that cannot be written are dropped: requests go on. Of those that nobody takes, the first
    ``MAX_UNWRITTEN`` are kept, and the others are counted in a line of their own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: BinaryIO = stream.buffer
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._is_due = False
        self._due = threading.Event()
        self._writing: threading.Thread | None = None

    def put(self, line: bytes) -> None:
        """Take a line; it is written a little later."""
        if len(self._lines) >= MAX_UNWRITTEN:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._is_due:
            self._is_due = True
            self._due.set()
            if self._writing is None:
                self._writing = threading.Thread(target=self._run, name="log", daemon=True)
                self._writing.start()

    def flush(self) -> None:
        """Return once every line is written, or after ``FLUSH_S`` if nobody takes them."""
        end = time.monotonic() + FLUSH_S
        while (self._lines or self._is_due) and time.monotonic() < end:
            time.sleep(GATHER_S / 10)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            time.sleep(GATHER_S)
            self._write_all()
            self._is_due = False
            if self._lines:  # logged after the last look and before it was not due any more
                self._is_due = True
                self._due.set()

    def _write_all(self) -> None:
        while self._lines:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), LINES_AT_ONCE))]
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                event = {"event": "log_lines_dropped", "count": dropped}
                lines.append(encoded({"timestamp": timestamp(), "level": "warning", **event}))
            try:
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
            except (OSError, ValueError):  # the pipe's reader is gone, the file is closed
                continue
