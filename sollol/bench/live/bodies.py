"""The HTTP requests of a workload, written before it begins."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sollol.bench.sim.config import SimModel
from sollol.bench.sim.inference import plan_chat
from sollol.bench.sim.prompts import plan_answer
from sollol.bench.workload import BYTES_PER_TOKEN, Request
from sollol.types import Task

_TURN_CHARS = 24  # what a chat template adds to a message and its answer, about


@dataclass(frozen=True, slots=True)
class Sending:
    """A request as it goes over the wire; ``at`` counts simulated seconds."""

    at: float
    model: str
    path: str
    body: bytes
    priority: int
    task: Task


def write_all(requests: Iterable[Request], models: Mapping[str, SimModel]) -> list[Sending]:
    """Return the bodies of all requests.

    The turns of a conversation hold what the model will have said before, so that what a node
    remembers of it is the start of the next prompt. Simulated models say long words: their answers
    are cut to what so many tokens of a prompt have.
    """
    conversations = _Conversations(models)
    return [_write(request, number, conversations) for number, request in enumerate(requests)]


def _write(request: Request, number: int, conversations: "_Conversations") -> Sending:
    task = request.ask.task
    if task is Task.EMBED:
        path, body = "/api/embed", _embed_body(request, number)
    elif task is Task.CHAT:
        path, body = "/api/chat", conversations.body(request, number)
    else:
        prompt = _words(f"{number}", request.prompt_tokens, request.output_tokens)
        path, body = "/api/generate", {"prompt": prompt}
    body["model"] = request.model
    if request.ask.options:
        body["options"] = dict(request.ask.options)
    encoded = msgspec.json.encode(body)
    return Sending(request.at, request.model, path, encoded, request.priority, task)


def _embed_body(request: Request, number: int) -> dict[str, Any]:
    each = max(1, request.prompt_tokens // request.ask.inputs)
    return {"input": [_words(f"{number} {i}", each) for i in range(request.ask.inputs)]}


class _Conversations:
    """What was said in each conversation so far, as messages with the tokens of each."""

    def __init__(self, models: Mapping[str, SimModel]) -> None:
        self._models = models
        self._said: dict[int, list[tuple[dict[str, str], int]]] = {}

    def body(self, request: Request, number: int) -> dict[str, Any]:
        """Return the next turn, and note what the model will answer."""
        said = self._said.setdefault(request.conversation, []) if request.conversation else []
        while said and sum(tokens for _, tokens in said) >= request.prompt_tokens:
            said.pop()  # the conversation went back to an earlier point
        fresh = request.prompt_tokens - sum(tokens for _, tokens in said)
        content = _words(f"{number}", fresh, request.output_tokens)
        said.append(({"role": "user", "content": content}, fresh))
        body = {"messages": [message for message, _ in said]}
        if request.conversation:
            words = self._answer(request.model, body)[: request.output_tokens * BYTES_PER_TOKEN]
            answer = {"role": "assistant", "content": words}
            said.append((answer, request.output_tokens))
        return body

    def _answer(self, model_name: str, body: dict[str, Any]) -> str:
        model = self._models[model_name]
        return "".join(plan_answer(model, plan_chat(model, model_name, body, think=None)).pieces)


def _words(seed: str, tokens: int, answer_tokens: int = 0) -> str:
    """Return a text of about so many tokens that asks for an answer of a length, if it is to."""
    wish = f" (in {answer_tokens} tokens)" if answer_tokens else ""
    chars = max(BYTES_PER_TOKEN, tokens * BYTES_PER_TOKEN - len(wish) - _TURN_CHARS)
    return hashlib.shake_128(seed.encode()).hexdigest(-(-chars // 2))[:chars] + wish
