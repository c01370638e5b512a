"""What an Ollama model says itself, put into requests for an engine that does not know it.

Ollama keeps a system prompt, examples and parameters beside the weights. The rules are its own:

1. A system prompt of the request replaces the model's.
2. The examples come before the request's messages.
3. Each option of the request replaces the model's.

The system prompt of a request stays in front of the examples, as for ``/api/generate``: Ollama's
templates put it there, and templates of llama.cpp refuse one further on.

Source: Ollama, server/routes.go, ChatHandler and GenerateHandler; template/template.go, collate.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from sollol.types import ModelDefaults
from sollol.wire.gojson import Fields
from sollol.wire.kinds import (
    V1_ANTHROPIC_MESSAGES,
    V1_CHAT,
    V1_COMPLETIONS,
    V1_RESPONSES,
    BodyKind,
)
from sollol.wire.turns import read, read_list

_SYSTEM_ROLES = ("system", "developer")
_EMPTY = (None, Raw(b"null"), Raw(b'""'), Raw(b"[]"))
_encode = msgspec.json.encode

Message = TypeVar("Message")


class _Head(msgspec.Struct):
    """Who says a message."""

    role: str = ""


_decode_head = msgspec.json.Decoder(_Head).decode


def conversation(
    messages: Sequence[dict[str, Any]], defaults: ModelDefaults
) -> list[dict[str, Any]]:
    """Return the messages of a chat completion with what the model says."""
    roles = (message["role"] for message in messages)
    system = _system_message(defaults)
    return _in_order(messages, _leading_systems(roles), system, map(dict, defaults.examples))


def with_set(options: Mapping[str, Any], others: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options, and others in their place where these are not null."""
    if not options:
        return others
    return {**options, **{name: value for name, value in others.items() if value is not None}}


def v1_fields(kind: BodyKind, fields: Fields, defaults: ModelDefaults) -> dict[str, bytes]:
    """Return the fields that a body of ``/v1`` lacks, or is to have in place of its own.

    Numbers are not among them: llama-server has those from its command line.

    Returns:
        JSON texts by name; none where the model says nothing that the request does not.
    """
    write = _V1_FIELDS.get(kind)
    stop = _STOPS.get(kind)
    said = {} if write is None else write(fields, defaults)
    if stop and defaults.options.get("stop") and fields.raws.get(stop) in (None, Raw(b"null")):
        said[stop] = _encode(defaults.options["stop"])
    return said


def _chat_fields(fields: Fields, defaults: ModelDefaults) -> dict[str, bytes]:
    system = [_encode(message) for message in _system_message(defaults)]
    own = read_list(fields.raws.get("messages"))
    return _list_field("messages", own, system, [_encode(each) for each in defaults.examples])


def _messages_fields(fields: Fields, defaults: ModelDefaults) -> dict[str, bytes]:
    """Anthropic has no messages of the system among the others."""
    examples = [_encode(each) for each in defaults.examples if each["role"] != "system"]
    said = _list_field("messages", read_list(fields.raws.get("messages")), (), examples)
    if defaults.system and fields.raws.get("system") in _EMPTY:
        said["system"] = _encode(defaults.system)
    return said


def _responses_fields(fields: Fields, defaults: ModelDefaults) -> dict[str, bytes]:
    own = _items(fields.raws.get("input"))
    said = _list_field("input", own, (), [_encode(_item(each)) for each in defaults.examples])
    has_system = fields.raws.get("instructions") not in _EMPTY or _leading_systems(_roles(own))
    if defaults.system and not has_system:
        said["instructions"] = _encode(defaults.system)
    return said


def _items(raw: Raw | None) -> list[Raw]:
    """Return the input of ``/v1/responses``, of which a text is a message of the user."""
    if raw is None or not bytes(raw).startswith(b'"'):
        return read_list(raw)
    return [Raw(_encode({"type": "message", "role": "user", "content": raw}))]


def _item(example: Mapping[str, str]) -> dict[str, Any]:
    if example["role"] != "assistant":
        return {"type": "message", **example}
    text = {"type": "output_text", "text": example["content"], "annotations": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [text]}


def _list_field(
    name: str, own: Sequence[Raw], system: Sequence[bytes], examples: Sequence[bytes]
) -> dict[str, bytes]:
    """Return a list with what is to be added; nothing if that is nothing, or there is no list."""
    joined = _in_order(own, _leading_systems(_roles(own)), system, examples)
    if not own or len(joined) == len(own):
        return {}
    return {name: b"[" + b",".join(joined) + b"]"}


def _in_order(
    own: Sequence[Message],
    systems: int,
    system: Sequence[Message],
    examples: Iterable[Message],
) -> list[Message]:
    """Return a conversation; ``systems`` of the caller's ``own`` messages are a system prompt."""
    return [*(own[:systems] or system), *examples, *own[systems:]]


def _system_message(defaults: ModelDefaults) -> list[dict[str, Any]]:
    return [{"role": "system", "content": defaults.system}] if defaults.system else []


def _roles(messages: Iterable[Raw]) -> Iterator[str]:
    for message in messages:
        head = read(message, _decode_head)
        yield "" if head is None else head.role


def _leading_systems(roles: Iterable[str]) -> int:
    return sum(1 for _ in takewhile(_SYSTEM_ROLES.__contains__, roles))


_V1_FIELDS: Mapping[BodyKind, Callable[[Fields, ModelDefaults], dict[str, bytes]]] = {
    V1_CHAT: _chat_fields,
    V1_ANTHROPIC_MESSAGES: _messages_fields,
    V1_RESPONSES: _responses_fields,
}
_STOPS: Mapping[BodyKind, str] = {
    V1_CHAT: "stop",
    V1_COMPLETIONS: "stop",
    V1_RESPONSES: "stop",
    V1_ANTHROPIC_MESSAGES: "stop_sequences",
}
