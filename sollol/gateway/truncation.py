"""Texts to embed that are too long for a llama-server, cut as an Ollama cuts them.

It is the node that says so: most texts are short, and nobody else knows how many tokens they have.
"""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from sollol.errors import InputTooLong, SollolError
from sollol.gateway.body import aside
from sollol.gateway.body_writer import spooled
from sollol.gateway.call import Call
from sollol.upstream.control import ControlClient
from sollol.wire.checks import embed_inputs
from sollol.wire.edit import edited
from sollol.wire.kinds import EMBED
from sollol.wire.peek import peek

LETTERS = 8
"""Of a text as many times the tokens it may have are looked at first; few tokens have more."""

_LETTER_BYTES = 4
"""In UTF-8, at most; a token has one at least."""
_ADDED = 2
"""Tokens that a model puts around a text."""

Count = Callable[[str], Awaitable[int]]


async def shortened(call: Call, node: ControlClient, error: InputTooLong) -> Call:
    """Return a call with its texts cut to what a node takes; close its body when it is done.

    Raises:
        InputTooLong: ``error``: they are not to be cut, or cannot be.
    """
    if call.kind is not EMBED:
        raise error
    seen = await aside(call.body, lambda: peek(call.kind, call.body.view()))
    if seen.fields.value("truncate") is False:
        raise error
    texts = embed_inputs(seen)

    async def count(text: str) -> int:
        return await _tokens_of(text, node, error)

    cut = [await longest_start(text, error.most_tokens, count) for text in texts]
    if cut == texts:
        raise error
    shorter = call.copy()
    shorter.body = spooled(edited(seen.fields, replace={"input": msgspec.json.encode(cut)}))
    return shorter


async def longest_start(text: str, most_tokens: int, count: Count) -> str:
    """Return the beginning of a text that has as many tokens as it may have; all of it if it has no more.

    Args:
        count: tells how many tokens a text has.
    """
    if len(text) * _LETTER_BYTES + _ADDED <= most_tokens:
        return text
    fits, beyond = 0, min(len(text), LETTERS * most_tokens)
    while await count(text[:beyond]) <= most_tokens:
        if beyond == len(text):
            return text
        fits, beyond = beyond, min(len(text), 2 * beyond)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        tokens = await count(text[:middle])
        if tokens == most_tokens:
            return text[:middle]
        if tokens < most_tokens:
            fits = middle
        else:
            beyond = middle
    return text[:fits]


async def _tokens_of(text: str, node: ControlClient, error: InputTooLong) -> int:
    """Return how many tokens a text has when it is embedded.

    Raises:
        InputTooLong: ``error``: the node does not tell.
    """
    try:
        answer = await node.post("/tokenize", {"content": text, "add_special": True})
        told = json.loads(answer.body) if answer.status == HTTPStatus.OK else {}
        return len(told["tokens"])
    except (SollolError, ValueError, TypeError, KeyError):
        raise error from None
