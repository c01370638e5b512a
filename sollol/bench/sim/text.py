"""What simulated models say: text, JSON, tool arguments and vectors, all pure functions.

Token ``i`` of an answer depends on (model digest, prompt, ``i``) only. Two nodes with the same
model therefore give the same text, and a text that stopped half-way can be continued anywhere.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

_ONSETS = re.findall("....", "baloderifumigasohevujitokelalomumipanuzepirarososevitamuvunozeka")
_ENDINGS = re.findall("...", "bandisfelgorhinjamkullepmonnirpaxrossuttevvimzol")
_WORDS = tuple(onset + ending for onset in _ONSETS for ending in _ENDINGS)
_FIRST_WORD = re.compile("|".join(word.capitalize() for word in _WORDS))
_BLOCK = 64  # tokens that come from one hash
_WORDS_A_SENTENCE = 12
_CHARS_A_TOKEN = 4
_JSON_CHARS_A_PIECE = 6


def count_tokens(text: str) -> int:
    """Return how many tokens a prompt has: a quarter of its characters, at least one."""
    return max(1, -(-len(text) // _CHARS_A_TOKEN))


def seed_of(digest: str, prompt: str) -> bytes:
    """Return what decides every token of the answer of a model to a prompt."""
    return hashlib.blake2b(
        prompt.encode(errors="replace"), key=digest.encode()[:64], digest_size=16
    ).digest()


@lru_cache(maxsize=4096)
def _block(seed: bytes, number: int) -> tuple[str, ...]:
    digest = hashlib.blake2b(seed + number.to_bytes(4, "big"), digest_size=_BLOCK).digest()
    first = number * _BLOCK
    return tuple(_spell(_WORDS[value], first + offset) for offset, value in enumerate(digest))


def _spell(word: str, index: int) -> str:
    place = index % _WORDS_A_SENTENCE
    spelled = word.capitalize() if place == 0 else word
    spelled = spelled + "." if place == _WORDS_A_SENTENCE - 1 else spelled
    return spelled if index == 0 else " " + spelled


def token_at(seed: bytes, index: int) -> str:
    """Return one token of an answer."""
    return _block(seed, index // _BLOCK)[index % _BLOCK]


def natural_length(seed: bytes) -> int:
    """Return how many tokens the answer has if nothing limits it: 16 to 128."""
    return 16 + int.from_bytes(seed[:2], "big") % 113


def _said_already(seed: bytes, partial: str) -> tuple[int, str] | None:
    """Return (tokens begun, rest of the last one) if the answer starts with ``partial``."""
    position = index = 0
    while position < len(partial):
        token = token_at(seed, index)
        if not token.startswith(partial[position : position + len(token)]):
            return None
        position += len(token)
        index += 1
    overshoot = position - len(partial)
    return index, token_at(seed, index - 1)[-overshoot:] if overshoot else ""


def tokens_said(seed: bytes, partial: str) -> int | None:
    """Return how many tokens of the answer ``partial`` is the start of; None if of none."""
    said = _said_already(seed, partial)
    return None if said is None else said[0]


@lru_cache(maxsize=1024)
def answer_pieces(seed: bytes, partial: str, limit: int) -> tuple[str, ...] | None:
    """Return what comes after ``partial``, one piece for each token.

    Args:
        seed: from :func:`seed_of`.
        partial: what was said already; empty at the start.
        limit: exactly so many tokens; 0 for the natural length.

    Returns:
        The pieces, or ``None`` if ``partial`` is not the start of this answer.
    """
    said = _said_already(seed, partial)
    if said is None:
        return None
    begun, rest = said
    pieces = (rest,) if rest else ()
    end = begun + limit - len(pieces) if limit else natural_length(seed)
    return pieces + tuple(token_at(seed, index) for index in range(begun, end))


def split_raw_prompt(digest: str, prompt: str) -> tuple[str, str]:
    """Return a raw prompt as (prompt, partial answer), the answer empty if it does not end in one."""
    for found in _FIRST_WORD.finditer(prompt):
        before, partial = prompt[: found.start()], prompt[found.start() :]
        if _said_already(seed_of(digest, before), partial) is not None:
            return before, partial
    return prompt, ""


def json_pieces(value: object, partial: str) -> tuple[str, ...]:
    """Return a value as JSON text in pieces, going on after ``partial`` where that is its start."""
    text = msgspec.json.encode(value).decode()
    rest = text[len(partial) :] if text.startswith(partial) else text
    return tuple(_cut(rest))


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), _JSON_CHARS_A_PIECE):
        yield text[start : start + _JSON_CHARS_A_PIECE]


def fill_schema(schema: Mapping[str, Any], seed: bytes, depth: int = 0) -> Any:
    """Return a value that a JSON schema allows; only types, properties and enums are read."""
    if schema.get("enum"):
        return schema["enum"][seed[depth % len(seed)] % len(schema["enum"])]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {
            name: fill_schema(properties[name], seed, depth + place + 1)
            for place, name in enumerate(properties)
        }
    if kind == "array":
        return [fill_schema(schema.get("items", {}), seed, depth + 1)]
    number = seed[depth % len(seed)]
    plain: dict[str, object] = {
        "integer": number,
        "number": number / 2,
        "boolean": number % 2 == 0,
        "null": None,
    }
    return plain.get(kind, _WORDS[number])


@lru_cache(maxsize=1024)
def embedding(digest: str, text: str, length: int) -> tuple[float, ...]:
    """Return the vector of a text, of length 1."""
    raw = hashlib.shake_128(f"{digest} {text}".encode(errors="replace")).digest(2 * length)
    return normalised(struct.unpack(f"<{length}h", raw))


def normalised(vector: tuple[float, ...] | tuple[int, ...]) -> tuple[float, ...]:
    """Return the vector scaled to length 1."""
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return tuple(round(value / norm, 8) for value in vector)
