"""Records as Ollama writes them: field order, fields left out when zero, Go's JSON."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

JSON_TYPE = b"application/json; charset=utf-8"
NDJSON_TYPE = b"application/x-ndjson"

_GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Where times come from: ``utc_ns`` since 1970 for stamps, ``monotonic_ns`` for durations."""

    utc_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns


SYSTEM_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of an answer; ``tool_calls`` and ``logprobs`` in Ollama's shape."""

    content: str = ""
    thinking: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()


class TextRecords:
    """Builds the records of one ``/api/chat`` or ``/api/generate`` answer, without a line end."""

    def __init__(self, *, is_chat: bool, model: str, clock: Clock) -> None:
        self._is_chat = is_chat
        self._model = model
        self._clock = clock

    def part(self, part: TextPart) -> bytes:
        """Return a record of a stream that goes on."""
        return encode(self._record(part, "", {}))

    def final(self, part: TextPart, done_reason: str, metrics: dict[str, int]) -> bytes:
        """Return the last record, or the only one when the answer is not streamed.

        Args:
            part: what the record still says; empty at the end of a stream.
            done_reason: ``stop``, ``length``, ``load`` or ``unload``.
            metrics: durations in nanoseconds and counts, in Ollama's names and order.
        """
        return encode(self._record(part, done_reason, metrics))

    def _record(self, part: TextPart, done_reason: str, metrics: dict[str, int]) -> dict[str, Any]:
        record: dict[str, Any] = {
            "model": self._model,
            "created_at": timestamp(self._clock.utc_ns()),
        }
        record |= {"message": _message(part)} if self._is_chat else _generated(part)
        record["done"] = bool(done_reason)
        if done_reason:
            record["done_reason"] = done_reason
        logprobs = {"logprobs": part.logprobs} if part.logprobs else {}
        if self._is_chat:
            return record | logprobs | metrics
        calls = {"tool_calls": part.tool_calls} if part.tool_calls else {}
        return record | metrics | calls | logprobs


def _message(part: TextPart) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": part.content}
    if part.thinking:
        message["thinking"] = part.thinking
    if part.tool_calls:
        message["tool_calls"] = part.tool_calls
    return message


def _generated(part: TextPart) -> dict[str, Any]:
    if not part.thinking:
        return {"response": part.content}
    return {"response": part.content, "thinking": part.thinking}


def load_record(path: str, model: str, *, unload: bool, clock: Clock = SYSTEM_CLOCK) -> bytes:
    """Return the answer to a request that only loads or unloads a model.

    Args:
        path: ``/api/chat`` or ``/api/generate``.
        model: the name as requested.
        unload: ``keep_alive`` was 0.
        clock: stamps the record.
    """
    records = TextRecords(is_chat=path == "/api/chat", model=model, clock=clock)
    return records.final(TextPart(), "unload" if unload else "load", {})


def error_record(message: str) -> bytes:
    """Return ``{"error":message}``: a whole error body, or a line of a stream without its end."""
    return encode({"error": message})


def timestamp(utc_ns: int) -> str:
    """Return nanoseconds since 1970 as Go's RFC3339Nano in UTC: no zeros at the fraction's end."""
    seconds, nanoseconds = divmod(utc_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"


def encode(value: object) -> bytes:
    """Return compact JSON with Go's escapes."""
    body = msgspec.json.encode(value)
    for raw, escaped in _GO_ESCAPES:
        body = body.replace(raw, escaped)  # none of them can stand outside a string
    return body
