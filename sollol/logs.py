"""Structured logs on standard error, as JSON lines or for a console.

A module logs with ``log = structlog.get_logger()`` and fixed event names:
``log.info("request_done", node=..., status=...)``. Records of the standard library (uvicorn, asyncio) take the same way.

A thread writes the lines, a few milliseconds after they were logged: a slow disk, or a pipe that
nobody reads, must not stop the event loop.
"""

import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, BinaryIO, Literal, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "[masked]"
_SECRET_NAMES = ("authorization", "api_key", "apikey", "token", "password", "secret", "cookie")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_NO_STDLIB_LINES = 100

GATHER_S = 0.1
"""How long lines are gathered before they are written together."""
LINES_AT_ONCE = 500
MAX_UNWRITTEN = 20_000
"""Lines kept while nobody takes them."""
FLUSH_S = 2.0
"""Longest wait for the last lines when the process ends."""

_PLAIN = (str, int, float, NoneType)  # asked first: the abstract Mapping is slow to ask for
_ENCODE = msgspec.json.Encoder(enc_hook=str).encode


def configure(
    level: Literal["debug", "info", "warning", "error"],
    format: Literal["auto", "console", "json"],
    stream: TextIO | None = None,
) -> None:
    """Set up logging for the process; ``sollol serve`` calls it once, before the first line.

    Args:
        level: least severe level written.
        format: ``auto`` is ``console`` when ``stream`` is a terminal, else ``json``.
        stream: where lines go; standard error when not given.
    """
    stream = stream or sys.stderr
    writer = _Writer(stream)
    is_terminal = stream.isatty()
    as_console = format == "console" or (format == "auto" and is_terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            add_timestamp,
            mask_secrets,
            *(_console(is_terminal) if as_console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    _take_stdlib_records(_LEVELS[level])
    flush()
    _Direct.flush = writer.flush
    _Direct.write = None if as_console or level in ("warning", "error") else writer.msg
    _Direct.is_off = level in ("warning", "error")


class _Direct:
    """What :func:`info` and :func:`flush` use; set by :func:`configure`.

    ``write`` is None where lines have to go the way of all others.
    """

    write: Callable[[bytes], None] | None = None
    flush: Callable[[], None] | None = None
    is_off = False


def info(event: str, fields: dict[str, Any]) -> None:
    """Write a line of level ``info`` at a fifth of the cost, for what every request logs.

    The line is the same as any other's. ``fields`` are not looked through for secrets.

    Args:
        event: of letters and underscores, as it is not escaped.
        fields: at least one.
    """
    if _Direct.write is not None:
        begin = f'{{"timestamp":"{_timestamp()}","level":"info","event":"{event}",'
        _Direct.write(begin.encode() + _encoded(fields)[1:])
    elif not _Direct.is_off:
        structlog.get_logger().info(event, **fields)


def flush() -> None:
    """Return once every line is written, or after ``FLUSH_S`` if nobody takes them."""
    if _Direct.flush is not None:
        _Direct.flush()


atexit.register(flush)


class _Second:
    """The text of the present second; most lines share theirs with the line before."""

    number = -1
    text = ""


def add_timestamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the time of the line."""
    event["timestamp"] = _timestamp()
    return event


def _timestamp() -> str:
    """Return the time, RFC 3339 in UTC with microseconds."""
    now = time.time()
    second = int(now)
    if second != _Second.number:
        _Second.number = second
        _Second.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return "%s.%06dZ" % (_Second.text, (now - second) * 1_000_000)  # noqa: UP031, half the time


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace the value of every field that is named like a secret, in nested mappings too."""
    for name, value in event.items():
        if _is_secret(name):
            event[name] = MASK
        elif not isinstance(value, _PLAIN) and isinstance(value, Mapping):
            event[name] = _masked(value)
    return event


def _masked(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    event: EventDict = {str(name): value for name, value in mapping.items()}
    return dict(mask_secrets(None, "", event))


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    """Say whether a field is a secret: ``api_key``, ``x-auth-token``; not ``prompt_tokens``."""
    words = name.lower().replace("-", "_")
    return any(words == secret or words.endswith(f"_{secret}") for secret in _SECRET_NAMES)


def _json() -> list[Processor]:
    # Local variables stay out of tracebacks: they hold prompts and keys.
    trace = ExceptionDictTransformer(show_locals=False, max_frames=30)
    return [structlog.processors.ExceptionRenderer(trace), _as_json]


def _as_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    head = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return _encoded({**head, **event})


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        return _ENCODE(line)
    except (TypeError, ValueError, OverflowError):  # half a character, a huge number, an odd key
        return json.dumps(line, default=str, skipkeys=True).encode()


def _console(colors: bool) -> list[Processor]:
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )
    return [
        _without_controls,
        lambda _, __, event: render(_, __, event).encode("utf-8", "backslashreplace"),
    ]


def _without_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape what could steer a terminal: names of models come from callers."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable() and name != "exception":
            event[name] = value.encode("unicode_escape").decode()
    return event


class _Writer:
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
        self._thread: threading.Thread | None = None

    def msg(self, line: bytes) -> None:
        if len(self._lines) >= MAX_UNWRITTEN:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._is_due:
            self._is_due = True
            self._due.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    debug = info = warning = error = critical = exception = msg

    def flush(self) -> None:
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
                lines.append(_encoded({"timestamp": _timestamp(), "level": "warning", **event}))
            try:
                self._stream.write(b"\n".join(lines) + b"\n")
                self._stream.flush()
            except (OSError, ValueError):  # the pipe's reader is gone, the file is closed
                continue


class _ToStructlog(logging.Handler):
    """Hands records of the standard library to structlog, so that one renderer writes all."""

    def __init__(self) -> None:
        super().__init__()
        self._log = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            fields = {"exc_info": record.exc_info} if record.exc_info else {}
            self._log.log(level, record.getMessage(), logger=record.name, **fields)
        except Exception:  # as the standard handlers do: a bad format string is not our end
            self.handleError(record)


def _take_stdlib_records(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel(_NO_STDLIB_LINES)
