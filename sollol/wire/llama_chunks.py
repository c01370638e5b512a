"""What llama-server's text routes say, chunk by chunk, read with no more trust than needed.

Unknown fields are ignored and missing ones have defaults, so other servers of the OpenAI dialect
are read as well. Read were the answers of llama.cpp b10068 and b11434.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec import DecodeError, Struct, field, json

from sollol.errors import ProtocolViolation


class Function(Struct):
    """The function of a tool call; a stream sends its name once and its arguments in pieces."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct):
    """A tool call, or a piece of the one with the same ``index``."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Candidate(Struct):
    """A token the model might have said."""

    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None


class Logprob(Candidate):
    """The token the model said, and the likeliest at its place."""

    top_logprobs: list[Candidate] | None = None


class Timings(Struct):
    """llama-server's own measure of an answer; counts in tokens."""

    cache_n: int | None = None
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


class PromptDetails(Struct):
    """A part of :class:`Usage`."""

    cached_tokens: int | None = None


class Usage(Struct):
    """OpenAI's count of tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Piece(Struct):
    """One chunk of an answer, or a whole answer; the same for every text route."""

    content: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    finish_reason: str = ""
    timings: Timings | None = None
    usage: Usage | None = None
    error: str | None = None


Reader: TypeAlias = Callable[[bytes], Piece]


class _Message(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class _Logprobs(Struct):
    content: list[Logprob] | None = None


class _Choice(Struct):
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _ChatChunk(Struct):
    choices: list[_Choice] | None = None
    timings: Timings | None = None
    usage: Usage | None = None
    error: Any = None


class _NativeChunk(Struct):
    content: str | None = None
    stop: bool = False
    stop_type: str | None = None
    timings: Timings | None = None
    completion_probabilities: list[Logprob] | None = None
    error: Any = None


_chat_decoder = json.Decoder(_ChatChunk)
_native_decoder = json.Decoder(_NativeChunk)


def read_chat_piece(data: bytes) -> Piece:
    """Read a chunk or a whole answer of ``/v1/chat/completions``.

    Raises:
        ProtocolViolation: it is not such JSON.
    """
    try:
        chunk = _chat_decoder.decode(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"not a chat completion: {error}") from error
    piece = Piece(timings=chunk.timings, usage=chunk.usage)
    if chunk.error is not None:
        piece.error = error_text(chunk.error)
    if not chunk.choices:
        return piece
    choice = chunk.choices[0]
    piece.finish_reason = choice.finish_reason or ""
    if choice.logprobs:
        piece.logprobs = choice.logprobs.content or []
    if message := choice.delta or choice.message:
        piece.content = message.content or ""
        piece.thinking = message.reasoning_content or message.reasoning or ""
        piece.tool_calls = message.tool_calls or []
    return piece


def read_native_piece(data: bytes) -> Piece:
    """Read a chunk or a whole answer of ``/completion`` or ``/infill``.

    Raises:
        ProtocolViolation: it is not such JSON.
    """
    try:
        chunk = _native_decoder.decode(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"not a completion: {error}") from error
    piece = Piece(content=chunk.content or "", timings=chunk.timings)
    piece.logprobs = chunk.completion_probabilities or []
    if chunk.error is not None:
        piece.error = error_text(chunk.error)
    if chunk.stop:
        piece.finish_reason = "length" if chunk.stop_type == "limit" else "stop"
    return piece


def error_text(error: object) -> str:
    """Return the text of an ``error`` value: a string, or an object with a ``message``."""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else "the node reported an error"


def read_error(status: int, body: bytes) -> str:
    """Return the text of an answer with an error status, whatever its body is."""
    try:
        decoded = json.decode(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace").strip()[:1000] or f"the node answered {status}"
    if isinstance(decoded, dict) and decoded.get("error") is not None:
        return error_text(decoded["error"])
    return f"the node answered {status}"
