"""Answers of ``/v1/responses``."""

import time
from itertools import count
from typing import Any

from sollol.bench.sim.bodies import Body
from sollol.bench.sim.exchange import PLAIN_JSON, UNCACHED
from sollol.bench.sim.http import Header
from sollol.bench.sim.records import Answer, Result, go_json

_Item = dict[str, Any]


class ResponsesRecords:
    """``/v1/responses``: numbered events about a response, its items and their parts."""

    stream_type = b"text/event-stream"
    whole_type = PLAIN_JSON
    stream_headers: tuple[Header, ...] = UNCACHED

    def __init__(self, model: str, body: Body, ids: "count[int]") -> None:
        self._number = next(ids) % 999_999
        self._fields = _echo(model, body, f"resp_{self._number}")
        self._sequence = count()
        self._output: list[_Item] = []
        """The items that are complete."""
        self._said = ""
        self._thought = ""
        self._open = ""
        self._is_first = True

    def text(self, piece: str) -> bytes:
        """Return the events of a piece of the answer."""
        events = self._begin("message")
        self._said += piece
        where = {**self._where(), "content_index": 0}
        fields = {**where, "delta": piece, "logprobs": []}
        return events + self._event("response.output_text.delta", fields)

    def thinking(self, piece: str) -> bytes:
        """Return the events of a piece of thought."""
        events = self._begin("reasoning")
        self._thought += piece
        fields = {**self._where(), "summary_index": 0, "delta": piece}
        return events + self._event("response.reasoning_summary_text.delta", fields)

    def tool_call(self, answer: Answer) -> bytes:
        """Return the events of a tool call: its arguments come in one piece."""
        events = self._start() + self._end()
        self._open = "function_call"
        item = _call_item(answer, self._id())
        begun = {**item, "status": "in_progress", "arguments": ""}
        events += self._item_event("added", begun)
        where, kind = self._where(), "response.function_call_arguments"
        events += self._event(f"{kind}.delta", {**where, "delta": item["arguments"]})
        events += self._event(f"{kind}.done", {**where, "arguments": item["arguments"]})
        return events + self._item_done(item)

    def last(self, result: Result) -> list[bytes]:
        """Return the events that end a stream."""
        ended = self._start() + self._end()
        response = self._response("completed", self._output, result)
        return [ended + self._event("response.completed", {"response": response})]

    def whole(self, answer: Answer, result: Result) -> bytes:
        """Return the whole answer as one body."""
        output = []
        if answer.thinking:
            output.append(_thought_item("".join(answer.thinking), f"rs_resp_{self._number}"))
        if answer.tool_name:
            output.append(_call_item(answer, f"fc_resp_{self._number}_0"))
        else:
            output.append(_message_item("".join(answer.pieces), f"msg_{self._number}"))
        return go_json(self._response("completed", output, result)) + b"\n"

    def error(self, message: str) -> bytes:
        """Return nothing, as Ollama does: the stream ends without its last events."""
        return b""

    def _start(self) -> bytes:
        if not self._is_first:
            return b""
        self._is_first = False
        response = self._response("in_progress", [], None)
        created = self._event("response.created", {"response": response})
        return created + self._event("response.in_progress", {"response": response})

    def _begin(self, kind: str) -> bytes:
        """Return the start of an item of this kind, unless the last one is of it and open."""
        events = self._start()
        if self._open == kind:
            return events
        events += self._end()
        self._open = kind
        if kind == "reasoning":
            item = {"id": self._id(), "type": kind, "summary": []}
            return events + self._item_event("added", item)
        item = {**_message_item("", self._id()), "status": "in_progress", "content": []}
        part = {**self._where(), "content_index": 0, "part": _text_part("")}
        added = self._item_event("added", item)
        return events + added + self._event("response.content_part.added", part)

    def _end(self) -> bytes:
        if self._open == "reasoning":
            fields = {**self._where(), "summary_index": 0, "text": self._thought}
            events = self._event("response.reasoning_summary_text.done", fields)
            return events + self._item_done(_thought_item(self._thought, self._id()))
        if self._open == "message":
            where = {**self._where(), "content_index": 0}
            done = {**where, "text": self._said, "logprobs": []}
            part = {**where, "part": _text_part(self._said)}
            events = self._event("response.output_text.done", done)
            events += self._event("response.content_part.done", part)
            return events + self._item_done(_message_item(self._said, self._id()))
        return b""

    def _item_done(self, item: _Item) -> bytes:
        event = self._item_event("done", item)
        self._output.append(item)
        self._open = ""
        return event

    def _item_event(self, what: str, item: _Item) -> bytes:
        fields = {"output_index": len(self._output), "item": item}
        return self._event(f"response.output_item.{what}", fields)

    def _where(self) -> dict[str, Any]:
        return {"item_id": self._id(), "output_index": len(self._output)}

    def _id(self) -> str:
        prefixes = {"message": "msg_{}", "reasoning": "rs_{}", "function_call": "fc_{}_0"}
        return prefixes[self._open].format(self._number)

    def _response(self, status: str, output: list[_Item], result: Result | None) -> dict[str, Any]:
        is_over = result is not None
        return {
            **self._fields,
            "completed_at": int(time.time()) if is_over else None,
            "status": status,
            "output": output,
            "usage": _usage(result) if result is not None else None,
        }

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = go_json({**fields, "type": kind, "sequence_number": next(self._sequence)})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _echo(model: str, body: Body, response_id: str) -> dict[str, Any]:
    """Return what every form of the response has: the request's own settings, and defaults."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "incomplete_details": None,
        "model": model,
        "previous_response_id": None,
        "instructions": body.get("instructions") or None,
        "error": None,
        "tools": body.get("tools") or [],
        "tool_choice": "auto",
        "truncation": body.get("truncation") or "disabled",
        "parallel_tool_calls": True,
        "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
        "top_p": body.get("top_p", 1.0),
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": body.get("temperature", 1.0),
        "reasoning": body.get("reasoning") or None,
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "store": False,
        "background": bool(body.get("background")),
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }


def _text_part(text: str) -> _Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message_item(text: str, item_id: str) -> _Item:
    content = [_text_part(text)]
    head = {"id": item_id, "type": "message", "status": "completed"}
    return {**head, "role": "assistant", "content": content}


def _thought_item(text: str, item_id: str) -> _Item:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _call_item(answer: Answer, item_id: str) -> _Item:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": answer.tool_id,
        "name": answer.tool_name,
        "arguments": go_json(answer.tool_arguments).decode(),
    }


def _usage(result: Result) -> dict[str, Any]:
    return {
        "input_tokens": result.prompt_tokens,
        "output_tokens": result.eval_count,
        "total_tokens": result.prompt_tokens + result.eval_count,
        "input_tokens_details": {"cached_tokens": result.cached_tokens or 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
