"""The numbers that a node tells of an answer: where each engine and each API has them.

    Ollama        durations in nanoseconds, and counts, in the last record
    llama-server  ``timings``, in milliseconds, in the last chunk of text routes
    OpenAI        ``usage``; in a stream only where the caller asked for it
    responses     ``usage`` of the ``response`` in the last event
    Anthropic     ``usage`` of ``message_start`` and ``message_delta``; the later one counts

What nobody tells, or tells in another form, is None. ``prompt_tokens`` is all of a prompt:
Anthropic and llama-server's ``timings`` leave out what was cached, Ollama and OpenAI do not.
"""

from typing import TypeVar

import msgspec
from msgspec import Raw

from sollol.errors import ProtocolViolation
from sollol.types import Measured
from sollol.wire.llama_chunks import Timings, Usage
from sollol.wire.records import (
    DONE,
    AnyUsage,
    Record,
    ending_decoder,
    inner_decoder,
    record_decoder,
    timings_decoder,
    usage_decoder,
)

NOTHING_TOLD = Measured()

_NONE = Raw()
_MAX = 2**53
_NANOSECONDS = 1e9
_FAILED = frozenset({"error", "response.failed"})

Value = TypeVar("Value")


def read_record(text: bytes) -> Record | None:
    """Return what matters of a JSON text; None when it is no record.

    One with numbers in another form tells nothing, but it may be the end of a stream all the same.
    """
    try:
        return record_decoder.decode(text)
    except (ValueError, RecursionError):
        ending = _read(text, ending_decoder)
    return None if ending is None else Record(ending.done, ending.type, ending.error)


def measured_of_body(body: bytes) -> Measured | None:
    """Return the numbers in a whole answer; None when it is an error.

    Raises:
        ProtocolViolation: it is no JSON.
    """
    record = read_body(body)
    if record is None:
        return NOTHING_TOLD
    return None if record.error is not None else measured_of_record(record)


def read_body(body: bytes, *, is_embedding: bool = False) -> Record | None:
    """Return what matters of a whole answer; None when it is no record.

    Args:
        is_embedding: its one long list is stepped over without being read.

    Raises:
        ProtocolViolation: it is no JSON, however well HTTP says that it ended.
    """
    if is_embedding and b"[" in body:
        body = body[: body.find(b"[") + 1] + body[body.rfind(b"]") :]
    record = read_record(body)
    if record is None:
        _check_json(body)
    return record


def _check_json(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=Raw)
    except RecursionError:
        return
    except ValueError as error:
        raise ProtocolViolation(f"the node's answer is no JSON: {error}") from None


def measured_of_stream(last: Record, first: bytes, tail: bytes) -> Measured | None:
    """Return the numbers in a stream that has ended; None when it ended in an error.

    Args:
        last: its last record.
        first: its first lines.
        tail: its last lines, with the last event that is not the mere end.
    """
    if last.error is not None or last.type in _FAILED:
        return None
    if last.type == "message_stop":
        start = measured_of_record(_event_in(first, 0) or Record())
        return measured_of_record(_event_before_last(tail), start)
    if last is DONE:
        return measured_of_record(_event_before_last(tail))
    return measured_of_record(last)


def measured_of_record(record: Record, before: Measured = NOTHING_TOLD) -> Measured:
    """Return the numbers in a record.

    Args:
        before: what an earlier record told; it counts where this one says nothing.
    """
    total = record.total_duration
    if total is not None or record.eval_count is not None:
        load, prompt = record.load_duration, record.prompt_eval_duration
        output = record.eval_duration
        return Measured(
            None if load is None else load / _NANOSECONDS,
            record.prompt_eval_count,
            record.prompt_eval_cached_count,
            None if prompt is None else prompt / _NANOSECONDS,
            record.eval_count,
            None if output is None else output / _NANOSECONDS,
            None if total is None else total / _NANOSECONDS,
        )
    usage = record.usage
    if not usage:
        outer = record.response or (record.message if record.type == "message_start" else _NONE)
        inner = _read(outer, inner_decoder) if outer else None
        usage = _NONE if inner is None else inner.usage
    timings = _read(record.timings, timings_decoder) if record.timings else None
    counted = _read(usage, usage_decoder) if usage else None
    if timings is not None:
        return measured_of_timings(timings, counted)
    return before if counted is None else _of_usage(counted, before)


def measured_of_timings(timings: Timings | None, usage: Usage | None) -> Measured:
    """Return the numbers of a llama-server, or of another server that has only ``usage``."""
    prompt_tokens = None if usage is None else _count(usage.prompt_tokens)
    if timings is None:
        return NOTHING_TOLD if usage is None else _of_usage(usage, NOTHING_TOLD)
    if prompt_tokens is None:
        prompt_tokens = _count(timings.prompt_n + (timings.cache_n or 0))
    return Measured(
        prompt_tokens=prompt_tokens,
        cached_tokens=_count(timings.cache_n),
        prompt_s=_seconds(timings.prompt_ms),
        output_tokens=_count(timings.predicted_n),
        output_s=_seconds(timings.predicted_ms),
    )


def _of_usage(usage: Usage, before: Measured) -> Measured:
    prompt, output = _count(usage.prompt_tokens), _count(usage.completion_tokens)
    details = usage.prompt_tokens_details
    cached = None if details is None else _count(details.cached_tokens)
    if prompt is None and output is None and isinstance(usage, AnyUsage):
        prompt, cached = _input(usage)
        output = _count(usage.output_tokens)
    return Measured(
        prompt_tokens=before.prompt_tokens if prompt is None else prompt,
        cached_tokens=before.cached_tokens if cached is None else cached,
        output_tokens=before.output_tokens if output is None else output,
    )


def _input(usage: AnyUsage) -> tuple[int | None, int | None]:
    """Return the tokens of a prompt and the cached ones, of responses and of Anthropic."""
    tokens = _count(usage.input_tokens)
    if usage.input_tokens_details is not None:  # where Ollama writes 0 for what it does not know
        return tokens, _count(usage.input_tokens_details.cached_tokens) or None
    cached = _count(usage.cache_read_input_tokens)
    if not tokens and not cached:
        return None, None
    return (tokens or 0) + (cached or 0) + (_count(usage.cache_creation_input_tokens) or 0), cached


def _event_before_last(tail: bytes) -> Record:
    """Return the event before the last in some lines; an empty record where there is none."""
    lines = b"\n" + tail
    last = lines.rfind(b"\ndata:")
    return _event_in(lines, lines.rfind(b"\ndata:", 0, max(last, 0)) + 1) or Record()


def _event_in(lines: bytes, start: int) -> Record | None:
    """Return the first event that begins at ``start`` or after it."""
    at = lines.find(b"data:", start)
    end = lines.find(b"\n", at)
    if at < 0 or end < 0:
        return None
    return read_record(lines[at + len(b"data:") : end])


def _read(text: bytes | Raw, decoder: "msgspec.json.Decoder[Value]") -> Value | None:
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError):
        return None


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < _MAX else None


def _seconds(milliseconds: float) -> float | None:
    return milliseconds / 1e3 if milliseconds >= 0 else None
