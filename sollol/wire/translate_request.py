"""Requests in Ollama's dialect as requests to a llama-server.

A llama-server holds one model for life: what only loads or unloads a model is answered here, and
``keep_alive``, ``truncate``, ``shift`` and runner options have nothing to act on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sollol.errors import InvalidRequest, UnsupportedByEngine
from sollol.types import NO_DEFAULTS, ModelDefaults
from sollol.wire.checks import embed_inputs
from sollol.wire.defaults import conversation, with_set
from sollol.wire.gojson import decode
from sollol.wire.gotext import quote
from sollol.wire.gotypes import BOOL, INT, STRING
from sollol.wire.kinds import CHAT, EMBED, EMBEDDINGS, GENERATE, BodyKind
from sollol.wire.llama_chunks import Reader, read_chat_piece, read_native_piece
from sollol.wire.messages import openai_messages, user_message
from sollol.wire.ollama import (
    JSON_TYPE,
    SYSTEM_CLOCK,
    Clock,
    TextRecords,
    encode,
    load_record,
)
from sollol.wire.peek import Peek
from sollol.wire.sampling import sampling_fields
from sollol.wire.text_options import chat_format, chat_thinking, native_format
from sollol.wire.translate_embed import (
    NORMALISED,
    RAW,
    EmbedBody,
    EmbedCall,
    EmbeddingsBody,
    embeddings_request,
)
from sollol.wire.translate_response import ResponseTranslator, TextBody, TextCall, TextStream

_NATIVE_FIELDS = ["content", "stop", "stop_type", "timings", "completion_probabilities"]


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """An answer that needs no node; always with status 200."""

    body: bytes
    content_type: bytes = JSON_TYPE


@dataclass(frozen=True, slots=True)
class Translated:
    """A request for a llama-server: POST ``body`` to ``target`` and read with ``response``.

    With a :class:`LocalAnswer` there is nothing to send, and both are empty.
    """

    target: str
    body: bytes
    response: ResponseTranslator | LocalAnswer


@dataclass(frozen=True, slots=True)
class _Call:
    kind: BodyKind
    seen: Peek
    fields: dict[str, Any]
    upstream_model: str
    defaults: ModelDefaults
    clock: Clock
    started_ns: int


def translate(
    kind: BodyKind,
    seen: Peek,
    upstream_model: str,
    *,
    defaults: ModelDefaults = NO_DEFAULTS,
    clock: Clock = SYSTEM_CLOCK,
) -> Translated:
    """Return the request that makes a llama-server do what the caller asks.

    Durations of the answer count from this call.

    Args:
        kind: of ``/api/chat``, ``/api/generate``, ``/api/embed`` or ``/api/embeddings``.
        seen: the body, which has passed :func:`sollol.wire.checks.check_fields`.
        upstream_model: what the node calls the model; answers repeat the caller's name for it.
        defaults: what the model says where the caller does not.
        clock: stamps records and measures.

    Raises:
        InvalidRequest: Ollama would refuse it too; with its status and text.
        UnsupportedByEngine: an Ollama node could do it.
        ValueError: ``kind`` is another one.
    """
    if kind not in _ROUTES:
        raise ValueError(f"{kind.path} has no counterpart on a llama-server")
    fields = _set_fields(kind, seen)
    started_ns = clock.monotonic_ns()
    return _ROUTES[kind](_Call(kind, seen, fields, upstream_model, defaults, clock, started_ns))


def _set_fields(kind: BodyKind, seen: Peek) -> dict[str, Any]:
    """Return the fields that Ollama knows and that are set, as Python values."""
    fields = {}
    for name, go_type in kind.struct.items():
        is_plain = go_type in (STRING, BOOL, INT)  # Go's null leaves these as they were
        raw = seen.fields.last_set(name) if is_plain else seen.fields.raws.get(name)
        value = None if raw is None else decode(raw)
        if value is not None:
            fields[name] = value
    return fields


def _local(body: bytes) -> Translated:
    return Translated("", b"", LocalAnswer(body))


def _embed(call: _Call) -> Translated:
    model = call.seen.model
    inputs = embed_inputs(call.seen)
    if not inputs:
        return _local(encode({"model": model, "embeddings": []}))
    dimensions = call.fields.get("dimensions", 0)
    answer = EmbedBody(EmbedCall(model, len(inputs), dimensions, call.clock, call.started_ns))
    body = embeddings_request(call.upstream_model, inputs, NORMALISED)
    return Translated("/v1/embeddings", body, answer)


def _embeddings(call: _Call) -> Translated:
    if call.seen.is_load_only:
        return _local(encode({"embedding": []}))
    body = embeddings_request(call.upstream_model, [call.fields["prompt"]], RAW)
    return Translated("/v1/embeddings", body, EmbeddingsBody())


def _chat(call: _Call) -> Translated:
    if call.seen.is_load_only:
        return _loaded(call)
    messages = openai_messages(call.fields["messages"])
    return _completed(call, conversation(messages, call.defaults))


def _generate(call: _Call) -> Translated:
    if call.seen.is_load_only:
        return _loaded(call)
    fields = call.fields
    prompt = fields["prompt"]
    _refuse_unsupported(fields)
    if fields.get("raw"):
        return _native(call, "/completion", {"prompt": prompt})
    if suffix := fields.get("suffix"):
        parts = {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""}
        return _native(call, "/infill", parts)
    return _completed(call, conversation(_prompt_messages(fields), call.defaults))


def _loaded(call: _Call) -> Translated:
    seen = call.seen
    record = load_record(call.kind.path, seen.model, unload=seen.keep_alive_zero, clock=call.clock)
    return _local(record)


def _prompt_messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    system = fields.get("system")
    user = user_message(fields["prompt"], fields.get("images", ()))
    return [{"role": "system", "content": system}, user] if system else [user]


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    if fields.get("raw") and any(fields.get(name) for name in ("template", "system", "context")):
        raise InvalidRequest("raw mode does not support template, system, or context")
    if fields.get("template"):
        raise UnsupportedByEngine(
            "a llama.cpp node cannot replace the model's template; send the finished prompt as raw"
        )
    if fields.get("context"):
        raise UnsupportedByEngine(
            "a llama.cpp node does not take context; send the conversation to /api/chat"
        )
    if fields.get("images") and (fields.get("raw") or fields.get("suffix")):
        raise UnsupportedByEngine("a llama.cpp node takes images only with the model's template")


def _completed(call: _Call, messages: list[dict[str, Any]]) -> Translated:
    fields = call.fields
    body: dict[str, Any] = {"model": call.upstream_model, "messages": messages}
    if tools := fields.get("tools"):
        body |= {"tools": tools, "parallel_tool_calls": True}
    body |= _common_fields(call, length_field="max_tokens")
    body |= chat_format(fields.get("format")) | chat_thinking(fields.get("think"))
    if fields.get("logprobs"):
        body |= {"logprobs": True, "top_logprobs": max(1, fields.get("top_logprobs", 0))}
    if call.seen.stream:
        body["stream_options"] = {"include_usage": True}
    answer = _text_translator(call, read_chat_piece)
    return Translated("/v1/chat/completions", msgspec.json.encode(body), answer)


def _native(call: _Call, target: str, prompt: Mapping[str, Any]) -> Translated:
    fields = call.fields
    body: dict[str, Any] = {"model": call.upstream_model, **prompt}
    body |= _common_fields(call, length_field="n_predict") | native_format(fields.get("format"))
    body["response_fields"] = _NATIVE_FIELDS  # the last event would repeat the prompt
    if fields.get("logprobs"):
        body["n_probs"] = max(1, fields.get("top_logprobs", 0))
    missing = f"{quote(call.seen.model)} does not support insert" if target == "/infill" else ""
    answer = _text_translator(call, read_native_piece, missing)
    return Translated(target, msgspec.json.encode(body), answer)


def _common_fields(call: _Call, *, length_field: str) -> dict[str, Any]:
    options = with_set(call.defaults.options, call.fields.get("options", {}))
    return sampling_fields(options, length_field=length_field) | {
        "stream": call.seen.stream,
        "cache_prompt": True,
        "timings_per_token": False,
    }


def _text_translator(call: _Call, read: Reader, missing: str = "") -> ResponseTranslator:
    text_call = TextCall(
        records=TextRecords(is_chat=call.kind is CHAT, model=call.seen.model, clock=call.clock),
        read=read,
        clock=call.clock,
        started_ns=call.started_ns,
        top_logprobs=call.fields.get("top_logprobs", 0),
        missing=missing,
    )
    return TextStream(text_call) if call.seen.stream else TextBody(text_call)


_ROUTES: dict[BodyKind, Callable[[_Call], Translated]] = {
    CHAT: _chat,
    GENERATE: _generate,
    EMBED: _embed,
    EMBEDDINGS: _embeddings,
}
