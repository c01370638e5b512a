"""The bytes of a simulated node's answers. The tokens of a prompt are the same on every node."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
NDJSON = b"application/x-ndjson"
JSON = b"application/json; charset=utf-8"

CRASHED = "model runner has unexpectedly stopped, this may be due to resource limitations"
FULL = "server busy, please try again.  maximum pending requests exceeded"
BROKEN = "template: :1: unexpected EOF"
PROBED = "Hi"
"""What the gateway asks when it wants to know of a template."""
LAST_CHUNK = b"0\r\n\r\n"


def token(prompt: str, place: int) -> str:
    """Return one token of the answer to a prompt."""
    return f"{zlib.crc32(f'{prompt}|{place}'.encode()) & 0xFFFF:04x} "


def count(text: str) -> int:
    """Return how many tokens a text has."""
    return text.count(" ")


def template_probe(body: Mapping[str, Any]) -> dict[str, object] | None:
    """Return the answer to a look at what a template makes of an answer's beginning; None if it is none."""
    turns = body.get("messages", [{"content": body.get("prompt")}])
    if turns[0]["content"] != PROBED:
        return None
    text: dict[str, object] = {"response": "x", "message": {"role": "assistant", "content": "x"}}
    return {**text, **numbers(1, 0.0, 0.0, 0.0), "prompt_eval_count": 10 + len(turns) - 1}


def head(status: int, content_type: bytes, *framing: bytes) -> bytes:
    """Return the head of an answer."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}".encode(), b"content-type: " + content_type]
    return b"\r\n".join([*lines, *framing, b"", b""])


def whole(status: int, body: Mapping[str, object], *headers: bytes) -> bytes:
    """Return a whole answer."""
    content = json.dumps(body).encode()
    return head(status, JSON, b"content-length: %d" % len(content), *headers) + content


def stream_head() -> bytes:
    """Return the head of a stream."""
    return head(200, NDJSON, b"transfer-encoding: chunked")


def chunk(record: Mapping[str, object]) -> bytes:
    """Return one record of a stream as a chunk."""
    line = json.dumps(record).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


def record(path: str, model: str, text: str, by: str) -> dict[str, object]:
    """Return a record with some text.

    Args:
        by: names the generation; no client knows this field, but the tests do.
    """
    said: dict[str, object] = (
        {"response": text}
        if path == "/api/generate"
        else {"message": {"role": "assistant", "content": text}}
    )
    return {"model": model, "created_at": "2026-01-01T00:00:00Z", **said, "by": by, "done": False}


def numbers(tokens: int, load_s: float, prompt_s: float, output_s: float) -> dict[str, object]:
    """Return what the last record tells of the work."""
    seconds = {"load": load_s, "prompt_eval": prompt_s, "eval": output_s}
    seconds["total"] = load_s + prompt_s + output_s
    durations = {f"{name}_duration": round(1e9 * each) for name, each in seconds.items()}
    counts = {"prompt_eval_count": 10, "eval_count": tokens}
    return {"done": True, "done_reason": "stop", **durations, **counts}
