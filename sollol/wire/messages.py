"""Ollama's chat messages as OpenAI's."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sollol.wire.gotext import fold
from sollol.wire.media import Image, media_parts


def openai_messages(messages: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the messages of a chat completion; all types are right (``wire/checks.py``).

    Ollama's tool calls and their results may come without ids, where OpenAI needs them. The made
    ones depend on the position only, so that the prompt of the next turn starts the same and the
    engine finds it in its cache.
    """
    calls = _CallIds()
    return [_openai_message(_set_members(message), calls) for message in messages]


def user_message(text: str, images: Sequence[Image]) -> dict[str, Any]:
    """Return a user's message with media before the text, where Ollama's templates put them."""
    return {"role": "user", "content": _content(text, images)}


def _content(text: str, images: Sequence[Image]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    return [*media_parts(images), {"type": "text", "text": text}]


def _set_members(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the members of an object as Go sees them: names without case, no nulls."""
    return {fold(name): member for name, member in (value or {}).items() if member is not None}


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
    role = message.get("role", "").lower()
    content = _content(message.get("content", ""), message.get("images", ()))
    translated: dict[str, Any] = {"role": role, "content": content}
    if thinking := message.get("thinking"):
        translated["reasoning_content"] = thinking
    if tool_calls := message.get("tool_calls"):
        translated["tool_calls"] = [_tool_call(_set_members(call), calls) for call in tool_calls]
    if role == "tool":
        name = message.get("tool_name", "")
        translated["tool_call_id"] = calls.take(name, message.get("tool_call_id", ""))
        if name:
            translated["name"] = name
    return translated


def _tool_call(call: Mapping[str, Any], calls: _CallIds) -> dict[str, Any]:
    function = _set_members(call.get("function"))
    name = function.get("name", "")
    arguments = msgspec.json.encode(function.get("arguments", {})).decode()
    return {
        "id": calls.add(name, call.get("id", "")),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
