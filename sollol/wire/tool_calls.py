"""Tool calls out of the pieces of an OpenAI answer, in Ollama's shape."""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from sollol.errors import ProtocolViolation
from sollol.wire.llama_chunks import ToolCall


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: dict[str, Any] | None = None
    text: list[str] = field(default_factory=list)


class ToolCalls:
    """Gathers the pieces of an answer's tool calls until they can be told whole."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}

    def add(self, piece: ToolCall) -> None:
        """Take a piece; without an index, an id or a name begins the next call."""
        function = piece.function
        begins = bool(piece.id or (function and function.name))
        index = piece.index
        if index is None:
            index = len(self._calls) if begins else max(len(self._calls) - 1, 0)
        call = self._calls.setdefault(index, _Call())
        call.id = call.id or piece.id or ""
        if function is None:
            return
        call.name = call.name or function.name or ""
        if isinstance(function.arguments, dict):
            call.arguments = function.arguments
        elif function.arguments:
            call.text.append(function.arguments)

    def whole(self, *, was_cut: bool) -> list[dict[str, Any]]:
        """Return all calls with their arguments as objects.

        Args:
            was_cut: the output ended at its bound, so the last call may lack its end; it is left
                out then.

        Raises:
            ProtocolViolation: arguments are no JSON object though the answer is complete.
        """
        whole: list[dict[str, Any]] = []
        for index, call in sorted(self._calls.items()):
            arguments = _arguments(call)
            if arguments is None and was_cut:
                continue
            if arguments is None:
                raise ProtocolViolation("the arguments of a tool call are no JSON object")
            function = {"index": index, "name": call.name, "arguments": arguments}
            whole.append({"id": call.id or _made_id(index, call), "function": function})
        return whole


def _arguments(call: _Call) -> dict[str, Any] | None:
    if call.arguments is not None:
        return call.arguments
    text = "".join(call.text)
    if not text.strip():
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def _made_id(index: int, call: _Call) -> str:
    told = f"{index} {call.name} {''.join(call.text)}"
    return f"call_{sha256(told.encode()).hexdigest()[:8]}"
