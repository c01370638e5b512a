"""``/v1/messages``: what a body in Anthropic's form asks for."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sollol.bench.sim.bodies import ApiError, Body, check_base64, read_body
from sollol.bench.sim.inference import plan_chat
from sollol.bench.sim.messages_records import MessagesRecords
from sollol.bench.sim.models import ModelStore, find_model, require
from sollol.bench.sim.records import go_json
from sollol.bench.sim.work import Work

_EFFORTS = ("high", "medium", "low", "max", "xhigh")


def read_messages(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /v1/messages``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "MessagesRequest", empty="EOF", untyped=("system",))
    name = body.get("model") or ""
    _check(body, name)
    messages = _messages(body)
    stored = find_model(models, name)
    require(stored.model, name, "completion", "chat")
    think = _read_think(body)
    if "thinking" not in stored.model.capabilities:  # Ollama overlooks it here, and only here
        think = None
    options = {"num_predict": body["max_tokens"]}
    chat = {
        "messages": messages,
        "tools": [_tool(tool) for tool in body.get("tools") or []],
        "options": options,
    }
    return Work(
        name,
        stored,
        make_records=partial(MessagesRecords, name, _estimate(body)),
        prompt=plan_chat(stored.model, name, chat, think, may_end=True),
        options=options,
        stream=body.get("stream") is True,
    )


def _check(body: Body, name: str) -> None:
    if not name:
        raise ApiError(400, "model is required", is_gin=True)
    if (body.get("max_tokens") or 0) <= 0:
        raise ApiError(400, "max_tokens is required and must be positive", is_gin=True)
    if not body.get("messages"):
        raise ApiError(400, "messages is required", is_gin=True)


def _read_think(body: Body) -> bool | None:
    kind = (body.get("thinking") or {}).get("type")
    if kind in ("enabled", "disabled"):
        return bool(kind == "enabled")
    effort = (body.get("output_config") or {}).get("effort") or ""
    return True if effort.strip().lower() in _EFFORTS else None


def _messages(body: Body) -> list[dict[str, Any]]:
    """Return the conversation as ``/api/chat`` is given it."""
    system = _text(_blocks(body.get("system")))
    found = [{"role": "system", "content": system}] if system else []
    for message in body["messages"]:
        found += _converted(message["role"].lower(), _blocks(message.get("content")))
    return found


def _blocks(content: object) -> Sequence[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _text(blocks: Sequence[Mapping[str, Any]]) -> str:
    return "".join(block.get("text") or "" for block in blocks if block.get("type") == "text")


def _converted(role: str, blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages that one becomes: each result of a tool is one of its own."""
    images = [_image(block) for block in blocks if block.get("type") == "image"]
    calls = [_call(block) for block in blocks if block.get("type") == "tool_use"]
    results = [
        {"role": "tool", "content": _text(_blocks(block.get("content")))}
        for block in blocks
        if block.get("type") == "tool_result"
    ]
    message: dict[str, Any] = {"role": role, "content": _text(blocks)}
    if images:
        message["images"] = images
    if calls:
        message["tool_calls"] = calls
    said = [message] if message["content"] or images or calls else []
    return [*results, *said] if role == "user" else [*said, *results]


def _image(block: Mapping[str, Any]) -> str:
    source = block.get("source")
    if not isinstance(source, dict):
        raise ApiError(400, "invalid image source", is_gin=True)
    kind = source.get("type")
    if kind != "base64":
        only = "Only base64 images are supported."
        raise ApiError(400, f"invalid image source type: {kind}. {only}", is_gin=True)
    data = str(source.get("data") or "")
    check_base64(data, "invalid base64 image data: ")
    return data


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    for field in ("id", "name"):
        if not block.get(field):
            message = f"tool_use block missing required '{field}' field"
            raise ApiError(400, message, is_gin=True)
    return {"function": {"name": block["name"], "arguments": block.get("input") or {}}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool["name"],
        "description": tool.get("description") or "",
        "parameters": tool.get("input_schema") or {},
    }
    return {"type": "function", "function": function}


def _estimate(body: Body) -> int:
    """Return the tokens that the start of a stream claims: a quarter of the characters."""
    length = len(_text(_blocks(body.get("system"))))
    for message in body["messages"]:
        length += len(message["role"]) + len(_text(_blocks(message.get("content"))))
    for tool in body.get("tools") or []:
        length += len(tool["name"]) + len(tool.get("description") or "")
        length += len(go_json(tool.get("input_schema"))) if tool.get("input_schema") else 0
    return max(1, length // 4)
