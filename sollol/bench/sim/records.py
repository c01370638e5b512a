"""Answers of chat and completion requests, in Ollama's own form and in OpenAI's."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any, Protocol

import msgspec

from sollol.bench.sim.exchange import JSON, PLAIN_JSON
from sollol.bench.sim.http import Header
from sollol.bench.sim.lease import Timings

_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_encode = msgspec.json.encode


def go_json(value: object) -> bytes:
    """Return JSON as Go's encoder writes it, with ``<``, ``>`` and ``&`` escaped."""
    text = _encode(value)
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


@lru_cache(maxsize=4)
def _to_the_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def rfc3339(now_ns: int) -> str:
    """Return a moment as Go prints it: nanoseconds without the zeros at their end."""
    second, rest = divmod(now_ns, 1_000_000_000)
    return f"{_to_the_second(second)}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def now_rfc3339() -> bytes:
    """Return this moment as Go prints it."""
    return rfc3339(time.time_ns()).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to a request, decided before it begins to speak."""

    pieces: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    tool_name: str = ""
    """The tool it calls instead of speaking; empty if none."""
    tool_arguments: Mapping[str, Any] = field(default_factory=dict)
    tool_tokens: int = 0
    done_reason: str = "stop"

    @property
    def eval_count(self) -> int:
        """Return how many tokens are generated."""
        return len(self.pieces) + len(self.thinking) + self.tool_tokens

    @property
    def tool_id(self) -> str:
        """Return the id of the tool call: ``call_`` and eight letters or digits."""
        hashed = sum(ord(char) * 31**place for place, char in enumerate(self.tool_name))
        return f"call_{hashed % 16**8:08x}"


@dataclass(frozen=True, slots=True)
class Result:
    """The figures that go into the end of an answer."""

    done_reason: str
    prompt_tokens: int
    eval_count: int
    timings: Timings
    cached_tokens: int | None = None
    context: list[int] | None = None

    def metrics(self) -> list[tuple[bytes, int]]:
        """Return Ollama's metrics; durations in nanoseconds, zeros left out."""
        spent = self.timings
        metrics = (
            (b"total_duration", int(spent.total_s * 1e9)),
            (b"load_duration", int(spent.load_s * 1e9)),
            (b"prompt_eval_count", self.prompt_tokens),
            (b"prompt_eval_cached_count", self.cached_tokens or 0),
            (b"prompt_eval_duration", int(spent.prompt_eval_s * 1e9)),
            (b"eval_count", self.eval_count),
            (b"eval_duration", int(spent.eval_s * 1e9)),
        )
        return [pair for pair in metrics if pair[1]]


class Records(Protocol):
    """How one API writes an answer: as records of a stream, or in one piece."""

    stream_type: bytes
    whole_type: bytes
    stream_headers: tuple[Header, ...]
    """What a stream's head says beside the type."""

    def text(self, piece: str) -> bytes:
        """Return the record of a piece of the answer."""
        ...

    def thinking(self, piece: str) -> bytes:
        """Return the record of a piece of thought."""
        ...

    def tool_call(self, answer: Answer) -> bytes:
        """Return the record of a tool call."""
        ...

    def last(self, result: Result) -> list[bytes]:
        """Return the records that end a stream."""
        ...

    def whole(self, answer: Answer, result: Result) -> bytes:
        """Return the whole answer as one body."""
        ...

    def error(self, message: str) -> bytes:
        """Return what is written when the runner fails in mid-stream; empty for nothing."""
        ...


class _OllamaRecords:
    """What chat and generate have in common: one JSON object a line."""

    stream_type = b"application/x-ndjson"
    stream_headers: tuple[Header, ...] = ()
    whole_type = JSON
    _text: bytes
    """What is said, with a place for its JSON."""
    _thought: bytes
    _both: bytes

    def __init__(self, model: str) -> None:
        self._start = b'{"model":' + go_json(model) + b',"created_at":"'

    def text(self, piece: str) -> bytes:
        """Return the record of a piece of the answer."""
        return self._record(self._text % go_json(piece))

    def thinking(self, piece: str) -> bytes:
        """Return the record of a piece of thought."""
        return self._record(self._thought % go_json(piece))

    def tool_call(self, answer: Answer) -> bytes:
        """Return the record of a tool call."""
        return self._record(self._called(answer))

    def last(self, result: Result) -> list[bytes]:
        """Return the record with the figures."""
        return [self._ended(self._text % b'""', result) + b"\n"]

    def whole(self, answer: Answer, result: Result) -> bytes:
        """Return the whole answer as one body."""
        if answer.tool_name:
            return self._ended(self._called(answer), result)
        text = go_json("".join(answer.pieces))
        if not answer.thinking:
            return self._ended(self._text % text, result)
        return self._ended(self._both % (text, go_json("".join(answer.thinking))), result)

    def error(self, message: str) -> bytes:
        """Return the line that ends a stream when the runner fails."""
        return go_json({"error": message}) + b"\n"

    def _called(self, answer: Answer) -> bytes:
        raise NotImplementedError

    def _record(self, said: bytes) -> bytes:
        return b'%b%b",%b,"done":false}\n' % (self._start, now_rfc3339(), said)

    def _ended(self, said: bytes, result: Result) -> bytes:
        reason = result.done_reason.encode()
        context = b"" if result.context is None else b',"context":' + _encode(result.context)
        metrics = b"".join([b',"%b":%d' % pair for pair in result.metrics()])
        end = b'"done":true,"done_reason":"%b"%b%b}' % (reason, context, metrics)
        return b'%b%b",%b,%b' % (self._start, now_rfc3339(), said, end)


class ChatRecords(_OllamaRecords):
    """``/api/chat``."""

    _text = b'"message":{"role":"assistant","content":%b}'
    _thought = b'"message":{"role":"assistant","content":"","thinking":%b}'
    _both = b'"message":{"role":"assistant","content":%b,"thinking":%b}'

    def _called(self, answer: Answer) -> bytes:
        function = {"index": 0, "name": answer.tool_name, "arguments": answer.tool_arguments}
        calls = go_json([{"id": answer.tool_id, "function": function}])
        return b'"message":{"role":"assistant","content":"","tool_calls":%b}' % calls


class GenerateRecords(_OllamaRecords):
    """``/api/generate``; such requests have no tools."""

    _text = b'"response":%b'
    _thought = b'"response":"","thinking":%b'
    _both = b'"response":%b,"thinking":%b'


class _OpenAIRecords:
    """What chat and text completions have in common: server-sent events."""

    stream_type = b"text/event-stream"
    stream_headers: tuple[Header, ...] = ()
    whole_type = PLAIN_JSON
    kind = ""
    chunk_kind = ""
    id_prefix = ""

    def __init__(self, model: str, include_usage: bool, ids: "count[int]") -> None:
        self._include_usage = include_usage
        self._is_first = True
        self._finish = ""
        self._common: dict[str, Any] = {
            "id": f"{self.id_prefix}-{next(ids) % 999}",
            "object": self.chunk_kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_ollama",
        }

    def last(self, result: Result) -> list[bytes]:
        events = [self._event([self._finish_choice(self._finish or result.done_reason)])]
        if self._include_usage:
            events.append(_sse({**self._common, "choices": [], "usage": _usage(result)}))
        return [*events, b"data: [DONE]\n\n"]

    def whole(self, answer: Answer, result: Result) -> bytes:
        reason = "tool_calls" if answer.tool_name else result.done_reason
        choice = {"index": 0, **self._said(answer), "finish_reason": reason}
        body = {**self._common, "object": self.kind, "choices": [choice], "usage": _usage(result)}
        return go_json(body) + b"\n"

    def error(self, message: str) -> bytes:
        """Return what Ollama writes: an empty chunk of no model, the message lost."""
        empty = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return _sse({**self._common, "model": "", "choices": [empty]})

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        return _sse({**self._common, "choices": choices})

    def _finish_choice(self, reason: str) -> dict[str, Any]:
        raise NotImplementedError

    def _said(self, answer: Answer) -> dict[str, Any]:
        raise NotImplementedError


class ChatCompletionRecords(_OpenAIRecords):
    """``/v1/chat/completions``."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def text(self, piece: str) -> bytes:
        """Return the event of a piece of the answer."""
        return self._delta({"content": piece})

    def thinking(self, piece: str) -> bytes:
        """Return the event of a piece of thought."""
        return self._delta({"content": "", "reasoning": piece})

    def tool_call(self, answer: Answer) -> bytes:
        """Return the event of a tool call."""
        self._finish = "tool_calls"
        return self._delta({"content": "", "tool_calls": [_openai_call(answer)]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        if self._is_first:
            delta = {"role": "assistant", **delta}
            self._is_first = False
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def _finish_choice(self, reason: str) -> dict[str, Any]:
        return {"index": 0, "delta": {}, "finish_reason": reason}

    def _said(self, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.pieces)}
        if answer.thinking:
            message["reasoning"] = "".join(answer.thinking)
        if answer.tool_name:
            message["tool_calls"] = [_openai_call(answer)]
        return {"message": message}


class CompletionRecords(_OpenAIRecords):
    """``/v1/completions``."""

    kind = "text_completion"
    chunk_kind = "text_completion"
    id_prefix = "cmpl"

    def text(self, piece: str) -> bytes:
        """Return the event of a piece of the answer."""
        return self._event([{"text": piece, "index": 0, "finish_reason": None}])

    def thinking(self, piece: str) -> bytes:
        """Return an empty event: this API has no place for thoughts."""
        return self.text("")

    def tool_call(self, answer: Answer) -> bytes:
        """Never asked for: completion requests have no tools."""
        raise AssertionError("completion requests have no tools")

    def _finish_choice(self, reason: str) -> dict[str, Any]:
        return {"text": "", "index": 0, "finish_reason": reason}

    def _said(self, answer: Answer) -> dict[str, Any]:
        return {"text": "".join(answer.pieces)}


def _openai_call(answer: Answer) -> dict[str, Any]:
    arguments = go_json(answer.tool_arguments).decode()
    function = {"name": answer.tool_name, "arguments": arguments}
    return {"id": answer.tool_id, "index": 0, "type": "function", "function": function}


def _usage(result: Result) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.eval_count,
        "total_tokens": result.prompt_tokens + result.eval_count,
    }
    if result.cached_tokens:
        usage["prompt_tokens_details"] = {"cached_tokens": result.cached_tokens}
    return usage


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + go_json(body) + b"\n\n"
