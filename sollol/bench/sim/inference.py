"""Chat, generate and completion requests: what their bodies ask for.

Nothing here waits or looks at the clock, so what is understood once can be kept.
"""

from functools import partial
from itertools import count
from typing import Any

from sollol.bench.sim.bodies import (
    ApiError,
    Body,
    check_details,
    check_openai_messages,
    read_body,
    read_effort,
    read_keep_alive,
    read_think,
    token_limit,
)
from sollol.bench.sim.config import SimModel
from sollol.bench.sim.models import ModelStore, find_model, require
from sollol.bench.sim.names import full_name
from sollol.bench.sim.prompts import Prompt, answer_schema, chat_prompt, generate_prompt
from sollol.bench.sim.records import (
    ChatCompletionRecords,
    ChatRecords,
    CompletionRecords,
    GenerateRecords,
    Records,
)
from sollol.bench.sim.text import split_raw_prompt
from sollol.bench.sim.work import Purpose, Work


def read_chat(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /api/chat``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "ChatRequest")
    keep_alive_s = read_keep_alive(body.get("keep_alive"))
    think = read_think(body.get("think"))
    check_details(body)
    name = body.get("model") or ""
    if not name:
        raise ApiError(400, "model is required")
    stored = find_model(models, name)
    purpose = _purpose(body.get("messages"), keep_alive_s)
    if purpose != "unload":
        require(stored.model, name, "completion", "chat")
    return Work(
        name,
        stored,
        make_records=partial(_same, ChatRecords(name)),
        purpose=purpose,
        prompt=plan_chat(stored.model, name, body, think) if purpose == "answer" else Prompt(""),
        options=body.get("options") or {},
        stream=body.get("stream") is not False,
        keep_alive_s=keep_alive_s,
    )


def read_generate(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /api/generate``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "GenerateRequest")
    keep_alive_s = read_keep_alive(body.get("keep_alive"))
    think = read_think(body.get("think"))
    check_details(body)
    name = body.get("model") or ""
    stored = find_model(models, name)
    purpose = _purpose(body.get("prompt"), keep_alive_s)
    if purpose != "unload":
        require(stored.model, name, "completion", "generate")
    return Work(
        name,
        stored,
        make_records=partial(_same, GenerateRecords(name)),
        purpose=purpose,
        prompt=_generate_prompt(stored.model, name, body, think)
        if purpose == "answer"
        else Prompt(""),
        options=body.get("options") or {},
        stream=body.get("stream") is not False,
        keep_alive_s=keep_alive_s,
        with_context=not body.get("raw"),
    )


def read_chat_completions(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /v1/chat/completions``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "ChatCompletionRequest", empty="EOF")
    if not body.get("messages"):
        raise ApiError(400, "[] is too short - 'messages'", is_gin=True)
    check_openai_messages(body["messages"])
    think = read_effort(body.get("reasoning_effort"))
    name = body.get("model") or ""
    if not name:
        raise ApiError(400, "model is required")
    stored = find_model(models, name)
    require(stored.model, name, "completion", "chat")
    options = _openai_options(body)
    translated = {**body, "options": options, "format": _openai_format(body)}
    return Work(
        name,
        stored,
        make_records=partial(ChatCompletionRecords, name, _wants_usage(body)),
        prompt=plan_chat(stored.model, name, translated, think),
        options=options,
        stream=body.get("stream") is True,
    )


def read_completions(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /v1/completions``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "CompletionRequest", empty="EOF")
    name = body.get("model") or ""
    stored = find_model(models, name)
    require(stored.model, name, "completion", "generate")
    options = _openai_options(body)
    body = {**body, "prompt": body.get("prompt") or " ", "options": options}
    return Work(
        name,
        stored,
        make_records=partial(CompletionRecords, name, _wants_usage(body)),
        prompt=_generate_prompt(stored.model, name, body, False),
        options=options,
        stream=body.get("stream") is True,
    )


def _same(records: Records, _: "count[int]") -> Records:
    """Return records that have no state, and so serve every answer."""
    return records


def _purpose(content: object, keep_alive_s: float | None) -> Purpose:
    if content:
        return "answer"
    return "unload" if keep_alive_s == 0 else "load"


def _thinks(model: SimModel, name: str, think: bool | None) -> bool:
    if think:
        require(model, name, "thinking", "thinking")
    return think is not False and "thinking" in model.capabilities


def plan_chat(
    model: SimModel, name: str, body: Body, think: bool | None, *, may_end: bool = False
) -> Prompt:
    """Return what a model is given to go on with a conversation.

    Args:
        model: the model, known to the request as ``name``.
        name: for the words of a refusal.
        body: a body as ``/api/chat`` takes it; it has messages.
        think: whether the request wants the model to think.
        may_end: whether the limit is only a limit; else the answer is exactly so long.

    Raises:
        ApiError: the model cannot do it.
    """
    messages, tools = body["messages"], body.get("tools") or []
    if tools and "tools" not in model.capabilities:
        raise ApiError(400, f"{full_name(name)} does not support tools")
    text, partial = chat_prompt(messages, tools)
    is_answered = messages[-1].get("role") == "tool"
    return Prompt(
        text,
        partial,
        tools=() if is_answered or partial else tools,
        schema=answer_schema(body.get("format")),
        limit=token_limit(body.get("options") or {}),
        thinks=_thinks(model, name, think),
        may_end=may_end,
    )


def _generate_prompt(model: SimModel, name: str, body: Body, think: bool | None) -> Prompt:
    is_raw = bool(body.get("raw"))
    text, partial = (
        split_raw_prompt(model.digest, body["prompt"]) if is_raw else generate_prompt(body)
    )
    return Prompt(
        text,
        partial,
        schema=answer_schema(body.get("format")),
        limit=token_limit(body.get("options") or {}),
        thinks=_thinks(model, name, think) and not is_raw,
    )


def _openai_options(body: Body) -> dict[str, Any]:
    return {"num_predict": body["max_tokens"]} if body.get("max_tokens") else {}


def _openai_format(body: Body) -> object:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return "json"
    if wanted.get("type") == "json_schema":
        return (wanted.get("json_schema") or {}).get("schema")
    return None


def _wants_usage(body: Body) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))
