"""What a body asks of a model, by its endpoint and its fields: an estimate for the scheduler.

Nothing here judges a body: what cannot be read counts as absent, and the node says what is wrong
with it. Lengths are those of the texts, and media are counted, never measured.

A conversation is known by what does not change while it goes on: the model, the tools, and all
messages up to the first of the user. A shared system prompt alone makes no conversation, or all
callers of one application would be sent to one node. A prompt without messages is

1. with ``context``: known by the longest power of two of its text, which is at least half of what
   came before; so the value changes only when the context has doubled;
2. in a model's own chat template: known by all before the first answer, like the messages of a
   chat, so that a loop which sends a growing prompt stays one conversation;
3. any other: known as a whole. How much of it is shared cannot be seen, so only its repetition is
   the same conversation; a caller who knows better says so with ``X-Sollol-Session``.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Raw

from sollol.types import Ask, Task
from sollol.wire import kinds
from sollol.wire.ask_fields import (
    has_format,
    has_output_format,
    has_response_format,
    has_text_format,
    is_thinking,
    never,
    read_limit,
    read_options,
)
from sollol.wire.gojson import Fields
from sollol.wire.kinds import BodyKind
from sollol.wire.turns import (
    Prompt,
    raw_bytes,
    read,
    read_content,
    read_list,
    read_turns,
    utf8_bytes,
)

_TOKEN_BYTES = 4
"""About the text of a token, where a prompt comes as tokens."""

_FIRST_ANSWERS = (
    "<|im_start|>assistant",
    "<|start_header_id|>assistant",
    "<start_of_turn>model",
    "<|start|>assistant",
    "<|assistant|>",
    "<\uff5cAssistant\uff5c>",
    "[/INST]",
)
"""Where the chat templates of the common families of models begin an answer."""

_EMBED = Task.EMBED
_NULL = Raw(b"null")
_is_filled_list = re.compile(rb"\[[ \t\r\n]*+[^\] \t\r\n]").match

_decode_string = msgspec.json.Decoder(str).decode


def ask_of(kind: BodyKind, fields: Fields, session: bytes | None = None) -> Ask:
    """Return what a body asks of a model.

    Args:
        kind: the route's kind of body; of those without a prompt only the task is told.
        fields: the body's.
        session: the caller's own name for a conversation (``X-Sollol-Session``), which counts
            instead of its opening; embeddings belong to none.
    """
    form = _FORMS.get(kind)
    if form is None:
        return _PLAIN[kind.task]
    task, raws = kind.task, fields.raws
    if task is _EMBED:
        return _embedding(fields, form)
    prompt = Prompt()
    form.read(fields, prompt)
    tools = raws.get("tools")
    if tools is not None and _is_filled_list(tools):
        prompt.text_bytes += raw_bytes(tools)
    else:
        tools = None
    if form.has_options:
        options, limit = read_options(raws.get("options"))
    else:
        options, limit = (), read_limit(raws, form.limits)
    return Ask(
        task,
        prompt.text_bytes,
        prompt.images,
        1,
        limit,
        options,
        _NEEDS[prompt.images > 0, tools is not None, is_thinking(raws, form.thinking)],
        form.is_structured(raws),
        _conversation(raws, prompt.opening, tools, session),
    )


def _embedding(fields: Fields, form: "_Form") -> Ask:
    options, _ = read_options(fields.raws.get("options")) if form.has_options else ((), None)
    texts, inputs = _inputs(fields.raws.get(form.input))
    return Ask(Task.EMBED, texts, 0, inputs, None, options, _EMBEDDING)


def _inputs(raw: Raw | None) -> tuple[int, int]:
    """Return the bytes of all texts to embed, and how many texts there are."""
    if raw is None:
        return 0, 1
    text = read(raw, _decode_string)
    if text is not None:
        return utf8_bytes(text), 1
    items = read_list(raw)
    if items and memoryview(items[0])[0] in b"-0123456789":  # one text, as tokens
        return len(items) * _TOKEN_BYTES, 1
    return sum(map(_input_bytes, items)), max(1, len(items))


def _input_bytes(raw: Raw) -> int:
    text = read(raw, _decode_string)
    return len(read_list(raw)) * _TOKEN_BYTES if text is None else utf8_bytes(text)


def _chat(fields: Fields, prompt: Prompt) -> None:
    prompt.add_turns(read_turns(fields.raws.get("messages")))


def _messages(fields: Fields, prompt: Prompt) -> None:
    prompt.add_content(read_content(fields.raws.get("system")))
    _chat(fields, prompt)


def _responses(fields: Fields, prompt: Prompt) -> None:
    prompt.add_content(read_content(fields.raws.get("instructions")))
    raw = fields.raws.get("input")
    text = None if raw is None else read(raw, _decode_string)
    if text is not None:
        prompt.add_text(text)
        return
    prompt.add_turns(read_turns(raw))


def _completion(fields: Fields, prompt: Prompt) -> None:
    """Take a prompt without messages; its opening is all before the first answer in it."""
    raws = fields.raws
    raw = raws.get("prompt")
    text = None if raw is None else read(raw, _decode_string)
    if text:
        prompt.text_bytes += utf8_bytes(text)
        prompt.opening.append(_before_first_answer(text).encode())
    suffix = raws.get("suffix")
    if suffix is not None:
        prompt.text_bytes += utf8_bytes(read(suffix, _decode_string) or "")


def _generate(fields: Fields, prompt: Prompt) -> None:
    raws = fields.raws
    _completion(fields, prompt)
    if not prompt.opening:  # it only loads the model
        return
    context = raws.get("context")
    if context is not None and _is_filled_list(context):
        text = bytes(context)
        prompt.text_bytes += (text.count(b",") + 1) * _TOKEN_BYTES
        prompt.opening[:] = [text[: 1 << (len(text).bit_length() - 1)]]
    prompt.add_content(read_content(raws.get("system")))
    prompt.add_images(read_list(raws.get("images")))


def _before_first_answer(text: str) -> str:
    if "<" not in text and "[" not in text:
        return text
    found = [at for at in map(text.find, _FIRST_ANSWERS) if at >= 0]
    return text[: min(found)] if found else text


def _conversation(
    raws: dict[str, Raw], opening: list[bytes], tools: Raw | None, session: bytes | None
) -> int:
    model = raws.get("model", _NULL)
    if session:
        return _hash(b"\0session\0".join((model, session)))
    if not opening:
        return 0
    return _hash(b"\0".join((model, tools or b"", *opening)))


def _hash(known_by: bytes) -> int:
    """Return a number below 2**63 that is equal in every process, and never 0.

    Whoever wants to can make two conversations look alike, and is then thought to have cached what is
    not; a hash against that costs several times as much as all the rest of a body.
    """
    return len(known_by) << 32 | crc32(known_by)


class _Form(NamedTuple):
    """Where a kind of body has what an :class:`Ask` tells."""

    read: Callable[[Fields, Prompt], None] = _chat
    is_structured: Callable[[dict[str, Raw]], bool] = never
    has_options: bool = False
    limits: Sequence[str] = ()
    thinking: Sequence[str] = ()
    input: str = "input"


_FORMS: dict[BodyKind, _Form] = {
    kinds.CHAT: _Form(_chat, has_format, True, thinking=("think",)),
    kinds.GENERATE: _Form(_generate, has_format, True, thinking=("think",)),
    kinds.EMBED: _Form(has_options=True),
    kinds.EMBEDDINGS: _Form(has_options=True, input="prompt"),
    kinds.V1_CHAT: _Form(
        _chat,
        has_response_format,
        limits=("max_completion_tokens", "max_tokens"),
        thinking=("reasoning_effort", "reasoning"),
    ),
    kinds.V1_COMPLETIONS: _Form(_completion, limits=("max_tokens",)),
    kinds.V1_EMBEDDINGS: _Form(),
    kinds.V1_RESPONSES: _Form(
        _responses, has_text_format, limits=("max_output_tokens",), thinking=("reasoning",)
    ),
    kinds.V1_ANTHROPIC_MESSAGES: _Form(
        _messages, has_output_format, limits=("max_tokens",), thinking=("thinking",)
    ),
}

_PLAIN = {task: Ask(task) for task in Task}
_EMBEDDING = frozenset({"embedding"})
_NEEDS = {
    (sees, calls, thinks): frozenset(
        name
        for name, is_needed in (("vision", sees), ("tools", calls), ("thinking", thinks))
        if is_needed
    )
    for sees in (False, True)
    for calls in (False, True)
    for thinks in (False, True)
}
