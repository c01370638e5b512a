"""What a client has of an answer that broke off, and the request for another node to go on from there.

The second leg is the same request with what was said so far as the beginning of the answer:

    /api/chat, /v1/chat/completions   a last message of the assistant, which both engines go on with
    /api/generate                     the same conversation, as a request to /api/chat
    /api/generate with ``raw``        the text after the prompt

A template may close the turn of that last message instead. That shows in the tokens of a prompt:
:func:`probes` makes two requests for one token each, without and with a letter said already, and a
template that leaves the turn open makes one token more of the second (:func:`how_it_continues`).

A record counts as a token, as engines send them. Where one holds several (a character of several
tokens, text held back as the possible start of a stop sequence), a limit on the answer comes later
by as many. What cannot be gone on with exactly is refused with ``CannotContinue``.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from sollol.errors import CannotContinue, InvalidBody, InvalidRequest, ProtocolViolation
from sollol.types import Ask, Dialect
from sollol.wire.ask_fields import read_limit
from sollol.wire.edit import edited, with_options
from sollol.wire.gojson import Fields, decode
from sollol.wire.gotext import quote
from sollol.wire.kinds import CHAT, GENERATE, V1_CHAT, BodyKind
from sollol.wire.llama_chunks import Piece, read_chat_piece
from sollol.wire.measured import measured_of_body
from sollol.wire.turns import read_list

CONTINUABLE = (CHAT, GENERATE, V1_CHAT)
"""The kinds of bodies whose answers can be gone on with."""

ON_CUT = b"x-sollol-on-cut"
"""The header by which a caller says whether."""

_LIMITS = ("max_tokens", "max_completion_tokens")
_PROMPT_FIELDS = ("prompt", "system", "suffix", "template", "context", "raw", "images")
_PROBED_TURN = {"role": "user", "content": "Hi"}
_SAID = "Q"
"""One token of every vocabulary, which hardly any answer goes on with twice."""

_encode = msgspec.json.encode

_REFUSED = {
    "logprobs": "probabilities of tokens",
    "suffix": "a text after the answer",
    "template": "a template of its own",
    "context": "a context as tokens",
    "grammar": "a grammar",
    "json_schema": "a schema",
    "functions": "functions",
    "audio": "sound",
    "add_generation_prompt": "its own end of the prompt",
    "continue_final_message": "its own end of the prompt",
    "_debug_render_only": "the prompt instead of an answer",
}
"""Fields whose answers cannot be gone on with, and what they ask for."""


class Delivered(NamedTuple):
    """What the client has of an answer.

    Attributes:
        tokens: records with text.
        is_finished: it was told why the answer ended; only the rest of the stream is missing.
        has_usage: it was told the counts of tokens, which come after that.
        head: what the events of OpenAI's stream have in common: ``id``, ``created``, ...
        in_event: the last event lacks the empty line that ends it.
    """

    text: str = ""
    tokens: int = 0
    is_finished: bool = False
    has_usage: bool = False
    head: Mapping[str, Any] = {}
    in_event: bool = False


class SecondLeg(NamedTuple):
    """The request that goes on with an answer.

    Attributes:
        kind: not always that of the caller's request.
        is_over: the answer has all its tokens; only its end is wanted, not what the node says.
    """

    kind: BodyKind
    body: bytes
    is_over: bool


class Manner(Enum):
    """How a node goes on with a last message of the assistant."""

    NOT = "not"
    """The template closes its turn, and the model begins another answer."""
    PLAIN = "plain"
    ECHOES = "echoes"
    """Its answer begins with that message (llama-server)."""


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None


class _Record(msgspec.Struct):
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    logprobs: list[Any] | None = None


class _Answer(msgspec.Struct):
    message: _Message | None = None
    response: str = ""
    choices: list["_Answer"] | None = None


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


def continues(given: bytes) -> bool:
    """Return whether the caller wants an answer that breaks off to be gone on with (:data:`ON_CUT`).

    Raises:
        InvalidRequest: the header is neither ``continue`` nor ``error``.
    """
    wanted = given.strip().lower()
    if wanted not in (b"continue", b"error"):
        shown = quote(given[:100].decode("latin-1"))
        raise InvalidRequest(f"X-Sollol-On-Cut must be continue or error; got {shown}")
    return wanted == b"continue"


def check_request(fields: Fields, ask: Ask) -> None:
    """Refuse a request whose answer cannot be gone on with.

    Raises:
        CannotContinue: it is one.
    """
    if ask.images:
        raise CannotContinue("the request has images")
    if "tools" in ask.needs:
        raise CannotContinue("the request has tools")
    if ask.is_structured:
        raise CannotContinue("the request asks for a format")
    for name, what in _REFUSED.items():
        if _is_set(fields, name):
            raise CannotContinue(f"the request asks for {what} ({name})")
    if _value(fields, "n") not in (None, 0, 1):
        raise CannotContinue("the request asks for several answers (n)")


def read_delivered(kind: BodyKind, sent: bytes) -> Delivered:
    """Return what the whole lines say that a client was sent of a stream.

    Raises:
        CannotContinue: there is more in them than text.
    """
    is_sse = kind is V1_CHAT
    texts: list[str] = []
    is_finished = has_usage = False
    try:
        for piece in _event_pieces(sent) if is_sse else _record_pieces(sent):
            _check_piece(piece)
            if piece.content:
                texts.append(piece.content)
            is_finished = is_finished or bool(piece.finish_reason)
            has_usage = has_usage or piece.usage is not None
        head = _head(sent) if is_sse else {}
    except (ValueError, RecursionError, ProtocolViolation) as error:
        raise CannotContinue("what the node sent cannot be read") from error
    text = "".join(texts)
    if "<think>" in text:
        raise CannotContinue("the model was thinking")
    in_event = is_sse and not sent.endswith((b"\n\n", b"\n\r\n"))
    return Delivered(text, len(texts), is_finished, has_usage, head, in_event)


def count_tokens(kind: BodyKind, sent: bytes) -> int:
    """Return how many records of a stream have text or thoughts, as far as they can be read."""
    count = 0
    with suppress(ValueError, RecursionError, ProtocolViolation):
        for piece in _event_pieces(sent) if kind is V1_CHAT else _record_pieces(sent):
            count += bool(piece.content or piece.thinking)
    return count


def second_leg(kind: BodyKind, fields: Fields, delivered: Delivered) -> SecondLeg:
    """Return the request that goes on with an answer.

    Args:
        kind: of :data:`CONTINUABLE`.
        fields: those of the caller's body, which has passed :func:`check_request`.

    Raises:
        CannotContinue: the conversation cannot be gone on with.
    """
    limits = _limits(kind, fields)
    left = {name: limit - delivered.tokens for name, limit in limits.items()}
    is_over = delivered.is_finished or any(limit <= 0 for limit in left.values())
    if is_over:
        left = dict.fromkeys(left or _LIMITS[:1], 1)
    replace = _limited(kind, fields, left)
    if kind is GENERATE and _is_set(fields, "raw"):
        replace["prompt"] = _encode(_text(fields, "prompt") + delivered.text)
        return SecondLeg(kind, edited(fields, replace=replace), is_over)
    if not delivered.text:
        return SecondLeg(kind, edited(fields, replace=replace), is_over)
    said = _encode({"role": "assistant", "content": delivered.text})
    replace["messages"] = _list([*_turns(kind, fields), said])
    if kind is GENERATE:
        body = edited(fields, remove=_PROMPT_FIELDS, replace=replace)
        return SecondLeg(CHAT, body, is_over)
    return SecondLeg(kind, edited(fields, replace=replace), is_over)


def needs_probe(kind: BodyKind, fields: Fields, delivered: Delivered) -> bool:
    """Whether it depends on the model's template if the second leg goes on with the answer."""
    return bool(delivered.text) and not (kind is GENERATE and _is_set(fields, "raw"))


def probe_key(kind: BodyKind, fields: Fields) -> tuple[object, ...]:
    """Return what of a request, besides the model, may decide what its template does."""
    thinking = [
        bytes(fields.raws.get(n, Raw())) for n in ("think", "reasoning_effort", "reasoning")
    ]
    rest = bytes(fields.raws.get("chat_template_kwargs", Raw()))
    return (kind.path, _is_set(fields, "system"), *thinking, rest)


def probes(kind: BodyKind, fields: Fields) -> tuple[bytes, bytes]:
    """Return the bodies of two requests for one token: one of ``kind``, and one of its second leg.

    The second has one letter of the answer said already. All but the conversation is as in the
    caller's body, so that no model is loaded anew for them.
    """
    replace = _limited(kind, fields, {"max_tokens": 1}) | {"stream": b"false"}
    said = _encode({"role": "assistant", "content": _SAID})
    turns = [_encode(_PROBED_TURN)]
    drop = ["stream_options"]
    if kind is not GENERATE:
        first = edited(fields, remove=drop, replace=replace | {"messages": _list(turns)})
        second = edited(fields, remove=drop, replace=replace | {"messages": _list([*turns, said])})
        return first, second
    prompt = _encode(_PROBED_TURN["content"])
    turns = [*_system(fields), *turns, said]
    return (
        edited(fields, replace=replace | {"prompt": prompt}),
        edited(fields, remove=_PROMPT_FIELDS, replace=replace | {"messages": _list(turns)}),
    )


def how_it_continues(first: bytes, second: bytes) -> Manner:
    """Return what the answers to :func:`probes` show."""
    counts = []
    for body in (first, second):
        told = measured_of_body(body)
        if told is None or told.prompt_tokens is None:
            return Manner.NOT
        counts.append(told.prompt_tokens)
    if counts[1] - counts[0] != 1:
        return Manner.NOT
    return Manner.ECHOES if _said_in(second).startswith(_SAID) else Manner.PLAIN


def _said_in(body: bytes) -> str:
    answer = _decode_answer(body)
    if answer.choices:
        answer = answer.choices[0]
    return answer.response if answer.message is None else answer.message.content or ""


def _record_pieces(sent: bytes) -> Iterator[Piece]:
    for line in filter(bytes.strip, sent.splitlines()):
        record = _decode_record(line)
        message = record.message or _Message()
        yield Piece(
            record.response or message.content or "",
            record.thinking or message.thinking or "",
            message.tool_calls or [],
            record.logprobs or [],
        )


def _events(sent: bytes) -> Iterator[bytes]:
    for line in sent.splitlines():
        if line.startswith(b"data:"):
            yield line[len(b"data:") :].strip()


def _event_pieces(sent: bytes) -> Iterator[Piece]:
    return map(read_chat_piece, _events(sent))


def _head(sent: bytes) -> Mapping[str, Any]:
    first = next(_events(sent), b"{}")
    return {
        name: value
        for name, value in _decode_event(first).items()
        if name in ("id", "created", "model", "system_fingerprint")
    }


def _check_piece(piece: Piece) -> None:
    if piece.thinking:
        raise CannotContinue("the model was thinking")
    if piece.tool_calls:
        raise CannotContinue("the model called a tool")
    if piece.logprobs:
        raise CannotContinue("the answer has probabilities of tokens")


def _value(fields: Fields, name: str) -> Any:
    try:
        return fields.value(name)
    except InvalidBody as error:
        raise CannotContinue(f"{name} cannot be read") from error


def _is_set(fields: Fields, name: str) -> bool:
    """Whether a field has a value that asks for something; the last that is not ``null`` counts."""
    raw = fields.last_set(name)
    return raw is not None and bool(decode(raw))


def _text(fields: Fields, name: str) -> str:
    raw = fields.last_set(name)
    value = "" if raw is None else decode(raw)
    if not isinstance(value, str):
        raise CannotContinue(f"{name} is no text")
    return value


def _limits(kind: BodyKind, fields: Fields) -> dict[str, int]:
    """Return the positive limits on the tokens of the answer, by field."""
    if kind.dialect is Dialect.OPENAI:
        found = {name: read_limit(fields.raws, (name,)) for name in _LIMITS}
        return {name: limit for name, limit in found.items() if limit is not None}
    options = _value(fields, "options")
    limit = options.get("num_predict") if isinstance(options, dict) else None
    return {"num_predict": int(limit)} if isinstance(limit, int | float) and limit > 0 else {}


def _limited(kind: BodyKind, fields: Fields, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Return the fields that set limits; of Ollama's body there is one, whatever it is called."""
    if kind.dialect is Dialect.OPENAI:
        return {name: b"%d" % limit for name, limit in limits.items()}
    if not limits:
        return {}
    (limit,) = limits.values()
    options = fields.raws.get("options") or b"{}"
    return {"options": with_options(options, ["num_predict"], [("num_predict", limit)])}


def _turns(kind: BodyKind, fields: Fields) -> list[bytes]:
    """Return the messages of a request as JSON texts."""
    if kind is GENERATE:
        prompt = {"role": "user", "content": _text(fields, "prompt")}
        return [*_system(fields), _encode(prompt)]
    turns = [bytes(turn) for turn in read_list(fields.raws.get("messages"))]
    last = decode(Raw(turns[-1])) if turns else None
    if not isinstance(last, dict):
        raise CannotContinue("the messages cannot be read")
    if last.get("role") == "assistant":
        raise CannotContinue("the request has the beginning of its answer itself")
    return turns


def _system(fields: Fields) -> list[bytes]:
    system = _text(fields, "system")
    return [_encode({"role": "system", "content": system})] if system else []


def _list(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"
