"""The bodies that the benchmark sends and its nodes answer, of the sizes of real ones."""

import json

MODEL = "bench:latest"
VERSION_ANSWER = b'{"version":"0.12.0"}'
_ENTRY = {
    "name": MODEL,
    "model": MODEL,
    "modified_at": "2025-01-01T00:00:00Z",
    "size": 1_000_000_000,
    "digest": "0" * 64,
    "details": {"family": "llama", "parameter_size": "1B", "quantization_level": "Q4_K_M"},
    "capabilities": ["completion"],
}
TAGS_ANSWER = json.dumps({"models": [_ENTRY]}).encode()
PS_ANSWER = json.dumps(
    {"models": [{**_ENTRY, "size_vram": 1_000_000_000, "expires_at": "2099-01-01T00:00:00Z"}]}
).encode()

_SENTENCE = "A gateway decides which node answers and when, and passes the bytes on. "
CHAT_ANSWER = json.dumps(
    {
        "model": MODEL,
        "created_at": "2025-01-01T00:00:00.123456789Z",
        "message": {"role": "assistant", "content": _SENTENCE * 3},
        "done": True,
        "done_reason": "stop",
        "total_duration": 412_000_000,
        "load_duration": 12_000_000,
        "prompt_eval_count": 210,
        "prompt_eval_duration": 80_000_000,
        "eval_count": 48,
        "eval_duration": 320_000_000,
    }
).encode()
CONTROL_ANSWERS = {
    "/api/version": VERSION_ANSWER,
    "/api/tags": TAGS_ANSWER,
    "/api/ps": PS_ANSWER,
}


def chat_request(*, stream: bool, chunks: int = 1, chunks_per_s: float = 1.0) -> bytes:
    """Return a chat of about 1 KB; the benchmark's node streams as ``options`` say."""
    messages = [
        {"role": "system", "content": _SENTENCE * 4},
        {"role": "user", "content": _SENTENCE * 7},
    ]
    options = {"num_predict": chunks, "chunks_per_s": chunks_per_s}
    body = {"model": MODEL, "messages": messages, "stream": stream, "options": options}
    return json.dumps(body).encode()


def http_post(path: str, body: bytes) -> bytes:
    """Return a whole request over a connection that stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
