"""Requests in Ollama's dialect as requests to a llama-server.

A llama-server holds one model for life: what only loads or unloads a model is answered here, and
``keep_alive``, ``truncate``, ``shift`` and runner options have nothing to act on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sollol.errors import InvalidRequest
from sollol.wire.gotext import quote
from sollol.wire.keep_alive import means_unload
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
from sollol.wire.request_fields import UnsupportedByEngine, check_request
from sollol.wire.sampling import sampling_fields
from sollol.wire.text_options import chat_format, chat_thinking, native_format, think_value
from sollol.wire.translate_embed import (
    NORMALISED,
    RAW,
    EmbedBody,
    EmbedCall,
    EmbeddingsBody,
    embed_inputs,
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
    path: str
    fields: dict[str, Any]
    model: str
    upstream_model: str
    clock: Clock
    started_ns: int

    @property
    def streams(self) -> bool:
        return bool(self.fields.get("stream", True))


def translate(
    path: str,
    fields: Mapping[str, Any],
    model: str,
    upstream_model: str,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> Translated:
    """Return the request that makes a llama-server do what ``path`` asks.

    Durations of the answer count from this call.

    Args:
        path: ``/api/chat``, ``/api/generate``, ``/api/embed`` or ``/api/embeddings``.
        fields: the decoded body, top-level keys in lower case; of equal keys the last.
        model: the name as requested; answers repeat it.
        upstream_model: what the node calls it.
        clock: stamps records and measures.

    Raises:
        InvalidRequest: Ollama would refuse it too; with its status and text.
        UnsupportedByEngine: an Ollama node could do it.
        ValueError: ``path`` is another one.
    """
    if path not in _ROUTES:
        raise ValueError(f"{path} has no counterpart on a llama-server")
    checked = check_request(path, fields)
    call = _Call(path, checked, model, upstream_model, clock, clock.monotonic_ns())
    means_unload(checked.get("keep_alive"))  # refuses a wrong one
    return _ROUTES[path](call)


def _local(body: bytes) -> Translated:
    return Translated("", b"", LocalAnswer(body))


def _embed(call: _Call) -> Translated:
    inputs = embed_inputs(call.fields.get("input"))
    if not inputs:
        return _local(encode({"model": call.model, "embeddings": []}))
    dimensions = call.fields.get("dimensions", 0)
    answer = EmbedBody(EmbedCall(call.model, len(inputs), dimensions, call.clock, call.started_ns))
    body = embeddings_request(call.upstream_model, inputs, NORMALISED)
    return Translated("/v1/embeddings", body, answer)


def _embeddings(call: _Call) -> Translated:
    prompt = call.fields.get("prompt", "")
    if not prompt:
        return _local(encode({"embedding": []}))
    body = embeddings_request(call.upstream_model, [prompt], RAW)
    return Translated("/v1/embeddings", body, EmbeddingsBody())


def _chat(call: _Call) -> Translated:
    think_value(call.fields.get("think"))  # refuses a wrong one
    messages = openai_messages(call.fields.get("messages", ()))
    return _completed(call, messages) if messages else _loaded(call)


def _generate(call: _Call) -> Translated:
    fields = call.fields
    think_value(fields.get("think"))
    messages = _prompt_messages(call)
    prompt = fields.get("prompt")
    if not prompt:
        return _loaded(call)
    _refuse_unsupported(fields)
    if fields.get("raw"):
        return _native(call, "/completion", {"prompt": prompt})
    if suffix := fields.get("suffix"):
        parts = {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""}
        return _native(call, "/infill", parts)
    return _completed(call, messages)


def _loaded(call: _Call) -> Translated:
    unload = means_unload(call.fields.get("keep_alive"))
    return _local(load_record(call.path, call.model, unload=unload, clock=call.clock))


def _prompt_messages(call: _Call) -> list[dict[str, Any]]:
    system = call.fields.get("system")
    images = call.fields.get("images", ())
    user = user_message(call.fields.get("prompt", ""), images, "GenerateRequest")
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
    if call.streams:
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
    missing = f"{quote(call.model)} does not support insert" if target == "/infill" else ""
    answer = _text_translator(call, read_native_piece, missing)
    return Translated(target, msgspec.json.encode(body), answer)


def _common_fields(call: _Call, *, length_field: str) -> dict[str, Any]:
    options = call.fields.get("options", {})
    return sampling_fields(options, length_field=length_field) | {
        "stream": call.streams,
        "cache_prompt": True,
        "timings_per_token": False,
    }


def _text_translator(call: _Call, read: Reader, missing: str = "") -> ResponseTranslator:
    text_call = TextCall(
        records=TextRecords(is_chat=call.path == "/api/chat", model=call.model, clock=call.clock),
        read=read,
        clock=call.clock,
        started_ns=call.started_ns,
        top_logprobs=call.fields.get("top_logprobs", 0),
        missing=missing,
    )
    return TextStream(text_call) if call.streams else TextBody(text_call)


_ROUTES: dict[str, Callable[[_Call], Translated]] = {
    "/api/chat": _chat,
    "/api/generate": _generate,
    "/api/embed": _embed,
    "/api/embeddings": _embeddings,
}
