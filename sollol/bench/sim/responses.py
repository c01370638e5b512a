"""``/v1/responses``: what a body asks for."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sollol.bench.sim.bodies import ApiError, Body, check_parts, read_body, read_effort
from sollol.bench.sim.inference import plan_chat
from sollol.bench.sim.models import ModelStore, find_model, require
from sollol.bench.sim.prompts import Prompt
from sollol.bench.sim.responses_records import ResponsesRecords
from sollol.bench.sim.work import Work

_PARTS = ("input_text", "input_image", "output_text", "input_file")


def read_responses(raw: bytes, models: ModelStore) -> Work:
    """Read the body of ``POST /v1/responses``.

    Raises:
        ApiError: it cannot be served.
    """
    body = read_body(raw, "ResponsesRequest", empty="EOF")
    messages = _messages(body)
    think = read_effort((body.get("reasoning") or {}).get("effort"))
    name = body.get("model") or ""
    if not name:
        raise ApiError(400, "model is required")
    stored = find_model(models, name)
    require(stored.model, name, "completion", "chat")
    limit = body.get("max_output_tokens")
    options = {"num_predict": limit} if limit else {}
    chat = {
        "messages": messages,
        "tools": [_tool(tool) for tool in body.get("tools") or []],
        "options": options,
        "format": _format(body),
    }
    return Work(
        name,
        stored,
        make_records=partial(ResponsesRecords, name, body),
        purpose="answer" if messages else "load",
        prompt=plan_chat(stored.model, name, chat, think, may_end=True) if messages else Prompt(""),
        options=options,
        stream=body.get("stream") is True,
    )


def _messages(body: Body) -> list[dict[str, Any]]:
    """Return the conversation as ``/api/chat`` is given it."""
    instructions, given = body.get("instructions"), body.get("input")
    found = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*found, {"role": "user", "content": given}] if given else found
    for place, item in enumerate(given or []):
        message = _message(item, place)
        if message is not None:
            found.append(message)
    return found


def _message(item: Mapping[str, Any], place: int) -> dict[str, Any] | None:
    kind = item.get("type") or ("message" if item.get("role") else "")
    if kind == "message":
        return {"role": item["role"], "content": _content(item.get("content"), place)}
    if kind == "function_call":
        function = {"name": item["name"], "arguments": item.get("arguments") or "{}"}
        return {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    if kind == "function_call_output":
        return {"role": "tool", "content": _content(item.get("output"), place)}
    if kind == "reasoning":
        return None
    problem = (
        f'unknown input item type: "{kind}"' if kind else "input item missing required 'type' field"
    )
    raise ApiError(400, f"input[{place}]: {problem}", is_gin=True)


def _content(content: object, place: int) -> str | Sequence[Any]:
    """Return text as it is; images and files become the parts that ``/v1`` knows elsewhere."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    for number, part in enumerate(content):
        if part.get("type") not in _PARTS:
            problem = f"content[{number}]: unknown content type: {part.get('type') or ''}"
            raise ApiError(400, f"input[{place}]: {problem}", is_gin=True)
        if part["type"] == "input_file":
            raise ApiError(400, "file inputs are not currently supported", is_gin=True)
    check_parts(content)
    return content


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": tool.get("parameters") or {},
    }
    return {"type": "function", "function": function}


def _format(body: Body) -> object:
    wanted = (body.get("text") or {}).get("format") or {}
    return wanted.get("schema") if wanted.get("type") == "json_schema" else None
