"""From the fields of a request to the prompt a model sees, and to what it will answer."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from sollol.bench.sim.bodies import ApiError, Body
from sollol.bench.sim.config import SimModel
from sollol.bench.sim.records import Answer
from sollol.bench.sim.text import (
    answer_pieces,
    count_tokens,
    fill_schema,
    json_pieces,
    natural_length,
    seed_of,
    tokens_said,
)

_ANY_JSON: dict[str, Any] = {"properties": {"answer": {"type": "string"}}}
_TOOL_TOKENS = 16
_CLOSING_TOKENS = 5  # as of <|im_end|>\n<|im_start|>assistant\n
_WISH = re.compile(r"\(in (\d{1,6}) tokens\)\n?(?:<\|assistant\|>)?$")
_WISH_CHARS = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given.

    ``partial`` is the start of its own answer, which it goes on with.
    """

    text: str
    partial: str = ""
    tools: Sequence[Any] = ()
    schema: Mapping[str, Any] | None = None
    """What the answer must look like; ``None`` for free text."""
    limit: int = 0
    """Tokens to generate; 0 for the natural length."""
    thinks: bool = False
    may_end: bool = False
    """Whether an answer shorter than the limit ends by itself."""


def chat_prompt(messages: Sequence[Any], tools: Sequence[Any]) -> tuple[str, str]:
    """Return the text of a conversation and the start of the answer it may end in."""
    lines = [f"<|tools|>{_compact(tools)}\n"] if tools else []
    partial = ""
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            where = "Go struct field ChatRequest.messages of type api.Message"
            raise ApiError(400, f"json: cannot unmarshal string into {where}", is_gin=True)
        text = _message_text(message)
        if message.get("role") == "assistant" and place == len(messages) - 1:
            partial = text
            break
        lines.append(f"<|{message.get('role', 'user')}|>{text}\n")
    return "".join(lines) + "<|assistant|>", partial


def generate_prompt(body: Body) -> tuple[str, str]:
    """Return the text of a generate request: with what it shares with a chat, that of the chat."""
    system = f"<|system|>{body['system']}\n" if body.get("system") else ""
    if not any(body.get(name) for name in ("context", "suffix", "images")):
        return f"{system}<|user|>{body['prompt']}\n<|assistant|>", ""
    context = f"<|context|>{_compact(body['context'])}\n" if body.get("context") else ""
    suffix = f"<|suffix|>{body['suffix']}\n" if body.get("suffix") else ""
    images = _image_text(body.get("images"))
    return f"{context}{system}{suffix}{images}{body['prompt']}", ""


def answer_schema(wanted: object) -> Mapping[str, Any] | None:
    """Return the schema that ``format`` asks for, ``None`` if it asks for nothing.

    Raises:
        ApiError: it is neither "json" nor a schema (500, as Ollama has it).
    """
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return _ANY_JSON
    if isinstance(wanted, dict):
        return wanted
    shown = _compact(wanted).replace('"', '\\"')
    expected = 'expected "json" or a valid JSON Schema object'
    raise ApiError(500, f'invalid format: "{shown}"; {expected}')


def plan_answer(model: SimModel, prompt: Prompt) -> Answer:
    """Return what the model will say."""
    if model.closes_turn and prompt.partial:
        prompt = replace(
            prompt, text=prompt.text + prompt.partial + "<|end|><|assistant|>", partial=""
        )
    seed = seed_of(model.digest, prompt.text)
    if prompt.tools:
        return _tool_answer(prompt.tools, seed)
    if prompt.schema is not None:
        pieces = json_pieces(fill_schema(prompt.schema, seed), prompt.partial)
        return Answer(pieces)
    limit = prompt.limit
    wish = _wished_length(prompt.text)
    if wish and not prompt.partial and (not limit or wish < limit):
        return Answer(answer_pieces(seed, "", wish) or ())
    if prompt.may_end and limit >= _natural_length(seed, prompt):
        limit = 0
    thinking = _thoughts(seed, limit) if prompt.thinks and not prompt.partial else ()
    limit = limit - len(thinking) if limit else 0
    said = answer_pieces(seed, prompt.partial, limit)
    if said is None:  # a partial answer of somebody else is one more piece of prompt
        said = answer_pieces(seed_of(model.digest, prompt.text + prompt.partial), "", limit) or ()
    return Answer(said, thinking, done_reason="length" if limit else "stop")


def prompt_tokens(model: SimModel, prompt: Prompt) -> int:
    """Return how many tokens the model evaluates: those it said itself count as when it said them."""
    tokens = count_tokens(prompt.text)
    if not prompt.partial:
        return tokens
    if model.closes_turn:
        tokens += _CLOSING_TOKENS
    said = tokens_said(seed_of(model.digest, prompt.text), prompt.partial)
    return tokens + (count_tokens(prompt.partial) if said is None else said)


def _wished_length(text: str) -> int:
    """Return N where a prompt ends in ``(in N tokens)``; 0 where it does not.

    A caller can so decide how long an answer gets without telling whoever reads only the options.
    """
    found = _WISH.search(text[-_WISH_CHARS:])
    return int(found[1]) if found else 0


def context_ids(prompt_tokens: int, eval_count: int) -> list[int]:
    """Return token ids as the last record of a generate request carries them."""
    return [(place * 2_654_435_761) % 32_000 for place in range(prompt_tokens + eval_count)]


def _natural_length(seed: bytes, prompt: Prompt) -> int:
    """Return how many tokens the answer has if nothing limits it."""
    thinking = _thoughts(seed, 0) if prompt.thinks and not prompt.partial else ()
    return natural_length(seed) + len(thinking)


def _thoughts(seed: bytes, limit: int) -> tuple[str, ...]:
    thinking_seed = hashlib.blake2b(seed, digest_size=16).digest()
    wanted = natural_length(thinking_seed) // 2
    if limit:
        wanted = min(wanted, limit // 2)
    return (answer_pieces(thinking_seed, "", wanted) or ()) if wanted else ()


def _tool_answer(tools: Sequence[Any], seed: bytes) -> Answer:
    """Answer with a call of the first tool."""
    first = tools[0] if isinstance(tools[0], dict) else {}
    function = first.get("function") or {}
    arguments = fill_schema({"type": "object", **(function.get("parameters") or {})}, seed)
    name = function.get("name") or "tool"
    return Answer(tool_name=name, tool_arguments=arguments, tool_tokens=_TOOL_TOKENS)


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    text = content if isinstance(content, str) else _parts_text(content)
    calls = message.get("tool_calls")
    return text + _image_text(message.get("images")) + (_compact(calls) if calls else "")


def _parts_text(parts: object) -> str:
    """Return the text of OpenAI's list of content parts."""
    if not isinstance(parts, list):
        return ""
    texts = [part.get("text") or _compact(part) for part in parts if isinstance(part, dict)]
    return "".join(texts)


def _image_text(images: object) -> str:
    if not isinstance(images, list):
        return ""
    hashed = [hashlib.sha256(str(image).encode()).hexdigest() for image in images]
    return "".join(f"<|image|>{digest}" for digest in hashed)


def _compact(value: object) -> str:
    return msgspec.json.encode(value).decode()
