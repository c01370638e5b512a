"""Answers of ``/v1/messages``, in Anthropic's form."""

from itertools import count
from typing import Any

from sollol.bench.sim.exchange import PLAIN_JSON, UNCACHED
from sollol.bench.sim.http import Header
from sollol.bench.sim.records import Answer, Result, go_json

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class MessagesRecords:
    """``/v1/messages``: blocks of content, one after the other."""

    stream_type = b"text/event-stream"
    whole_type = PLAIN_JSON
    stream_headers: tuple[Header, ...] = UNCACHED

    def __init__(self, model: str, estimated_tokens: int, ids: "count[int]") -> None:
        self._estimated_tokens = estimated_tokens
        self._message: dict[str, Any] = {
            "id": f"msg_{next(ids):024x}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._is_first = True
        self._index = 0
        self._open = ""
        self._called = False

    def text(self, piece: str) -> bytes:
        """Return the events of a piece of the answer."""
        return self._begin("text", {"text": ""}) + self._delta("text_delta", "text", piece)

    def thinking(self, piece: str) -> bytes:
        """Return the events of a piece of thought."""
        start = self._begin("thinking", {"thinking": ""})
        return start + self._delta("thinking_delta", "thinking", piece)

    def tool_call(self, answer: Answer) -> bytes:
        """Return the events of a tool call: its arguments come in one piece."""
        self._called = True
        fields = {"id": answer.tool_id, "name": answer.tool_name, "input": {}}
        arguments = go_json(answer.tool_arguments).decode()
        start = self._begin("tool_use", fields)
        return start + self._delta("input_json_delta", "partial_json", arguments) + self._end()

    def last(self, result: Result) -> list[bytes]:
        """Return the events that end a stream."""
        delta = {"stop_reason": self._stop_reason(result)}
        ended = _event("message_delta", {"delta": delta, "usage": _usage(result)})
        return [self._start() + self._end() + ended + _event("message_stop", {})]

    def whole(self, answer: Answer, result: Result) -> bytes:
        """Return the whole answer as one body."""
        self._called = bool(answer.tool_name)
        end = {"stop_reason": self._stop_reason(result), "usage": _usage(result)}
        return go_json({**self._message, "content": _content(answer), **end}) + b"\n"

    def error(self, message: str) -> bytes:
        """Return nothing, as Ollama does: the stream ends without its last events."""
        return b""

    def _stop_reason(self, result: Result) -> str:
        return "tool_use" if self._called else _STOP_REASONS[result.done_reason]

    def _start(self) -> bytes:
        if not self._is_first:
            return b""
        self._is_first = False
        usage = {"input_tokens": self._estimated_tokens, "output_tokens": 0}
        message = {**self._message, "content": [], "usage": usage}
        return _event("message_start", {"message": message})

    def _begin(self, kind: str, fields: dict[str, Any]) -> bytes:
        """Return the start of a block of this kind, unless the last one is of it and open."""
        before = self._start()
        if self._open == kind:
            return before
        before += self._end()
        self._open = kind
        block = {"type": kind, **fields}
        return before + _event(
            "content_block_start", {"index": self._index, "content_block": block}
        )

    def _delta(self, kind: str, field: str, value: str) -> bytes:
        delta = {"type": kind, field: value}
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _end(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        self._index += 1
        return _event("content_block_stop", {"index": self._index - 1})


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": "".join(answer.thinking)})
    if answer.pieces:
        blocks.append({"type": "text", "text": "".join(answer.pieces)})
    if answer.tool_name:
        call = {"id": answer.tool_id, "name": answer.tool_name, "input": answer.tool_arguments}
        blocks.append({"type": "tool_use", **call})
    return blocks


def _usage(result: Result) -> dict[str, int]:
    usage = {"input_tokens": result.prompt_tokens, "output_tokens": result.eval_count}
    if result.cached_tokens:
        usage["cache_read_input_tokens"] = result.cached_tokens
    return usage


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), go_json({"type": kind, **fields}))
