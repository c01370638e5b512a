"""Ollama's chat messages as OpenAI's."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sollol.errors import InvalidRequest
from sollol.wire.media import media_parts
from sollol.wire.request_fields import check_message


def openai_messages(messages: Sequence[object]) -> list[dict[str, Any]]:
    """Return the messages of a chat completion.

    Ollama's tool calls and their results may come without ids, where OpenAI needs them. The made
    ones depend on the position only, so that the prompt of the next turn starts the same and the
    engine finds it in its cache.

    Raises:
        InvalidRequest: a field has the wrong type, in Ollama's words.
    """
    calls = _CallIds()
    return [_openai_message(check_message(message), calls) for message in messages]


def user_message(text: str, images: Sequence[object], struct: str) -> dict[str, Any]:
    """Return a user's message with media before the text, where Ollama's templates put them.

    Args:
        text: what the user says.
        images: base64 strings; may be empty.
        struct: the Go struct that holds them, for an error's text.
    """
    return {"role": "user", "content": _content(text, images, struct)}


def _content(text: str, images: Sequence[object], struct: str) -> str | list[dict[str, Any]]:
    if not images:
        return text
    return [*media_parts(images, struct), {"type": "text", "text": text}]


class _CallIds:
    """Pairs tool results with the calls they answer: by name, else in order."""

    def __init__(self) -> None:
        self._made = 0
        self._unanswered: list[tuple[str, str]] = []

    def add(self, name: str, call_id: str) -> str:
        if not call_id:
            call_id = f"call_{self._made:08d}"
            self._made += 1
        self._unanswered.append((name, call_id))
        return call_id

    def take(self, name: str, call_id: str) -> str:
        for index, (call_name, known_id) in enumerate(self._unanswered):
            if call_id == known_id if call_id else name in ("", call_name):
                del self._unanswered[index]
                return known_id
        return call_id or self._unanswered_or_new(name)

    def _unanswered_or_new(self, name: str) -> str:
        new_id = self.add(name, "")
        self._unanswered.pop()
        return new_id


def _openai_message(message: Mapping[str, Any], calls: _CallIds) -> dict[str, Any]:
    role = message["role"]
    content = _content(message.get("content", ""), message.get("images", ()), "Alias")
    translated: dict[str, Any] = {"role": role, "content": content}
    if thinking := message.get("thinking"):
        translated["reasoning_content"] = thinking
    if tool_calls := message.get("tool_calls"):
        translated["tool_calls"] = [_tool_call(call, calls) for call in tool_calls]
    if role == "tool":
        name = message.get("tool_name", "")
        translated["tool_call_id"] = calls.take(name, message.get("tool_call_id", ""))
        if name:
            translated["name"] = name
    return translated


def _tool_call(call: object, calls: _CallIds) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest("json: cannot unmarshal tool call into Go value of type api.ToolCall")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise InvalidRequest("Value looks like object, but can't find closing '}' symbol")
    name = str(function.get("name") or "")
    return {
        "id": calls.add(name, str(call.get("id") or "")),
        "type": "function",
        "function": {"name": name, "arguments": msgspec.json.encode(arguments).decode()},
    }
