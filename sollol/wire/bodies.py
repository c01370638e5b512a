"""The bytes of error answers, as a real Ollama writes them on ``/api`` and on ``/v1``.

Source: Ollama, openai/openai.go (NewError), anthropic/anthropic.go, middleware/; Go's
encoding/json, encode.go.
"""

import json
import re
import secrets

from sollol.errors import (
    InvalidBody,
    MissingOnNode,
    RouteNotFound,
    SollolError,
    UpstreamStatus,
)
from sollol.types import Dialect

JSON_UTF8 = b"application/json; charset=utf-8"
"""Of every JSON answer of a handler, and of bodies refused before their handler."""
JSON = b"application/json"
"""Of every JSON answer that was translated for ``/v1``; a line feed ends these."""

TEXT = b"text/plain"
"""Of what the router says itself: unknown routes and methods."""

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def ollama_error(message: str) -> bytes:
    """Return the body of an error on ``/api``: ``{"error":"..."}``."""
    return f'{{"error":{_json_string(message)}}}'.encode()


def openai_error(status: int, message: str, code: str | None = None) -> bytes:
    """Return the body of an error on ``/v1``, without a line feed.

    Args:
        status: the HTTP status, which decides the ``type``.
        message: for the caller to read.
        code: a machine-readable name; Ollama never gives one.
    """
    kind = _OPENAI_TYPES.get(status, "api_error")
    code_json = "null" if code is None else _json_string(code)
    return (
        f'{{"error":{{"message":{_json_string(message)},"type":"{kind}",'
        f'"param":null,"code":{code_json}}}}}'
    ).encode()


def anthropic_error(status: int, message: str) -> bytes:
    """Return the body of an error on ``/v1/messages``, without a line feed."""
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    return (
        f'{{"type":"error","error":{{"type":"{kind}","message":{_json_string(message)}}},'
        f'"request_id":"req_{secrets.token_hex(12)}"}}'
    ).encode()


def ollama_error_record(message: str) -> bytes:
    """Return the last line of an NDJSON stream that failed after it began."""
    return ollama_error(message) + b"\n"


def openai_error_event(message: str) -> bytes:
    """Return the last event of an SSE stream that failed after it began; no ``[DONE]`` follows.

    The line feed before it ends the event that the stream may have broken off in.
    """
    return b"\ndata: " + openai_error(500, message) + b"\n\n"


def responses_error_event(message: str) -> bytes:
    """Return the last event of a stream of ``/v1/responses`` that failed after it began."""
    event = (
        f'{{"type":"error","code":"server_error","message":{_json_string(message)},"param":null}}'
    )
    return b"\nevent: error\ndata: " + event.encode() + b"\n\n"


def anthropic_error_event(message: str) -> bytes:
    """Return the last event of a stream of ``/v1/messages`` that failed after it began."""
    return b"\nevent: error\ndata: " + anthropic_error(500, message) + b"\n\n"


def engine_error(dialect: Dialect, status: int, body: bytes) -> bytes:
    """Return what an engine says went wrong, in the form of a dialect.

    A llama-server has one form of errors for all of its routes, that of OpenAI; of a stream of
    ``/v1/messages`` it is the object inside. What has another form is passed on as it came.
    """
    if dialect is not Dialect.ANTHROPIC:
        return body
    is_event = body.startswith(b"event: error")
    said = body.partition(b"data:")[2].partition(b"\n")[0] if is_event else body
    message = _message_of(said)
    if not message:
        return body
    if is_event:
        return anthropic_error_event(message).lstrip()
    return anthropic_error(status, message) + b"\n"


def _message_of(said: bytes) -> str:
    """Return the text of an error in OpenAI's form; empty if it has another one."""
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(told, dict) or told.get("type") == "error":
        return ""
    error = told.get("error", told)
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def error_response(dialect: Dialect, error: SollolError) -> tuple[int, bytes, bytes]:
    """Return the answer to a request that failed before its first byte.

    On ``/v1`` Ollama writes a body it refused itself in one way and the translated error of a
    handler in another: without and with a line feed.

    Returns:
        The status, the content type and the body.
    """
    message = str(error)
    if isinstance(error, MissingOnNode | UpstreamStatus):
        return error.status, error.content_type, engine_error(dialect, error.status, error.body)
    if isinstance(error, RouteNotFound):
        return error.status, TEXT, message.encode()
    if dialect == Dialect.OLLAMA:
        return error.status, JSON_UTF8, ollama_error(message)
    write = anthropic_error if dialect == Dialect.ANTHROPIC else openai_error
    body = write(error.status, message)
    if isinstance(error, InvalidBody):
        return error.status, JSON_UTF8, body
    return error.status, JSON, body + b"\n"


def _json_string(text: str) -> str:
    """Return a JSON string with the characters escaped that Go escapes."""
    return _UNSAFE.sub(_escaped, json.dumps(text, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"
