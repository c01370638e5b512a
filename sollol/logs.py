"""Structured logs on standard error, as JSON lines or for a console.

A module logs with ``log = structlog.get_logger()`` and fixed event names:
``log.info("request_done", node=..., status=...)``. Records of the standard library (uvicorn, asyncio) take the same way.
What every request logs goes straight to ``log_writer.py``.
"""

import atexit
import logging
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from sollol.log_writer import Writer, encoded, flush, timestamp, use

MASK = "[masked]"
_SECRET_NAMES = ("authorization", "api_key", "apikey", "token", "password", "secret", "cookie")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_NO_STDLIB_LINES = 100

_PLAIN = (str, int, float, NoneType)  # asked first: the abstract Mapping is slow to ask for


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
    writer = Writer(stream)
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
        logger_factory=lambda *_: _Logger(writer.put),
        cache_logger_on_first_use=True,
    )
    _take_stdlib_records(_LEVELS[level])
    flush()
    is_off = level in ("warning", "error")
    use(writer, is_direct=not as_console and not is_off, is_off=is_off)


atexit.register(flush)


def add_timestamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the time of the line."""
    event["timestamp"] = timestamp()
    return event


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
    return encoded({**head, **event})


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


class _Logger:
    """What structlog gives finished lines to."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = put
        self.critical = self.exception = put


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
