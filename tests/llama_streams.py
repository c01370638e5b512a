"""Short streams as a llama-server sends them, on each of its routes."""

import json
from typing import Any


def answer(status: str, content_type: str, body: bytes) -> bytes:
    """Return the bytes of a whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _events(*events: dict[str, Any], named: bool = False, then: str = "") -> bytes:
    """Return an answer that is a stream, though it comes at once."""
    names = (f"event: {event['type']}\n" if named else "" for event in events)
    text = "".join(
        f"{name}data: {json.dumps(event)}\n\n" for name, event in zip(names, events, strict=True)
    )
    return answer("200 OK", "text/event-stream", (text + then).encode())


_DONE = "data: [DONE]\n\n"
_USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
_CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 0},
}
STREAMS = {
    b"/v1/chat/completions": _events(
        {**_CHUNK, "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]},
        {**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**_CHUNK, "choices": [], "usage": _USAGE},
        then=_DONE,
    ),
    b"/v1/completions": _events(
        {
            **_CHUNK,
            "object": "text_completion",
            "choices": [{"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None}],
        },
        then=_DONE,
    ),
    b"/v1/responses": _events(
        {"type": "response.created", "sequence_number": 0, "response": _RESPONSE},
        {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": "hello",
            "logprobs": [],
        },
        {"type": "response.completed", "sequence_number": 2, "response": _RESPONSE},
        named=True,
    ),
    b"/v1/messages": _events(
        {"type": "message_start", "message": _MESSAGE},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "hello"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
        named=True,
    ),
}
