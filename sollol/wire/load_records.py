"""What a stream says while its model is loaded: records that every client passes over.

OpenAI      a comment, which no parser of events gives out; a person who looks sees how far it is
Anthropic   ``ping``, which its streams may have anywhere
Ollama      a part of an answer without text
"""

from sollol.types import Dialect
from sollol.wire.kinds import (
    CHAT,
    GENERATE,
    UNCACHED_STREAMS,
    V1_ANTHROPIC_MESSAGES,
    V1_CHAT,
    V1_COMPLETIONS,
    V1_RESPONSES,
    BodyKind,
)
from sollol.wire.ollama import SYSTEM_CLOCK, Clock, TextPart, TextRecords
from sollol.wire.streams import StreamFraming

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_KINDS = (CHAT, GENERATE, V1_CHAT, V1_COMPLETIONS, V1_RESPONSES, V1_ANTHROPIC_MESSAGES)


def has_load_records(kind: BodyKind) -> bool:
    """Whether a stream of a route may say something before its answer."""
    return kind in _KINDS


def stream_framing(kind: BodyKind) -> StreamFraming:
    """Return how the records of a route's streams are written."""
    is_ollama = kind.dialect is Dialect.OLLAMA
    return StreamFraming.NDJSON if is_ollama else StreamFraming.SSE


def stream_headers(kind: BodyKind) -> list[tuple[bytes, bytes]]:
    """Return the headers of a stream, as a node would have sent them."""
    headers = [(b"content-type", stream_framing(kind).value)]
    return [*headers, (b"cache-control", b"no-cache")] if kind in UNCACHED_STREAMS else headers


def load_record(kind: BodyKind, model: str, text: str, clock: Clock = SYSTEM_CLOCK) -> bytes:
    """Return a record for a stream whose answer has not begun.

    Args:
        kind: one that :func:`has_load_records`.
        model: as the answer will name it.
        text: how far it is, in one line; only a comment has room for it.
        clock: stamps the record.
    """
    if kind.dialect is Dialect.OLLAMA:
        return TextRecords(is_chat=kind is CHAT, model=model, clock=clock).part(TextPart()) + b"\n"
    return _PING if kind is V1_ANTHROPIC_MESSAGES else b": %b\n\n" % text.encode()


def load_text(share: float, eta_s: float | None) -> str:
    """Return how far a load is, and what is left of it if that is known."""
    text = f"loading {share:.0%}"
    left_s = round(eta_s or 0.0)
    return f"{text}, about {left_s} s left" if left_s > 0 else text
