"""Embeddings: Ollama's two requests and answers over llama-server's one route."""

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sollol.errors import InputTooLong, ProtocolViolation
from sollol.types import Measured
from sollol.wire.llama_chunks import Usage, read_error
from sollol.wire.measured import measured_of_timings
from sollol.wire.ollama import JSON_TYPE, Clock, encode, error_record
from sollol.wire.translate_response import BoundedBody

NORMALISED = 2
RAW = -1
"""llama-server's ``embd_normalize``: the Euclidean norm, or as the model gives it."""


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Said(msgspec.Struct):
    message: str = ""
    type: str = ""
    n_ctx: int = 0


class _Error(msgspec.Struct):
    error: _Said


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: Usage | None = None


_decoder = msgspec.json.Decoder(_Embeddings)
_error_decoder = msgspec.json.Decoder(_Error)
_BATCH = re.compile(r"too large to process\b.*\bbatch size: (\d{1,9})\b")
_vector_decoder = msgspec.json.Decoder(list[float])


def embeddings_request(model: str, inputs: list[str], normalise: int) -> bytes:
    """Return the body for ``/v1/embeddings``."""
    return msgspec.json.encode(
        {
            "model": model,
            "input": inputs,
            "encoding_format": "float",
            "embd_normalize": normalise,
        }
    )


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """What a translator knows of the request; ``dimensions`` 0 keeps vectors whole."""

    model: str
    inputs: int
    dimensions: int
    clock: Clock
    started_ns: int


class _EmbeddingsBody:
    streaming = False
    is_over = False
    content_type = JSON_TYPE

    def __init__(self) -> None:
        self._body = BoundedBody()
        self._usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """See :class:`~sollol.wire.translate_response.ResponseTranslator`."""
        self._body.add(data)
        return b""

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """See :class:`~sollol.wire.translate_response.ResponseTranslator`.

        Raises:
            InputTooLong: that is what is wrong.
        """
        most_tokens = _most_tokens(body)
        if most_tokens:
            raise InputTooLong(most_tokens)
        return status, error_record(read_error(status, body))

    def measured(self) -> Measured | None:
        """See :class:`~sollol.wire.translate_response.ResponseTranslator`."""
        return measured_of_timings(None, self._usage)

    def _vectors(self, count: int) -> tuple[list[msgspec.Raw], int]:
        """Return the vectors in the order of the inputs, and the tokens of all."""
        try:
            answer = _decoder.decode(self._body.whole())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"not a list of embeddings: {error}") from error
        if len(answer.data) != count:
            raise ProtocolViolation(f"{len(answer.data)} embeddings for {count} inputs")
        if not all(bytes(memoryview(vector.embedding)[:1]) == b"[" for vector in answer.data):
            raise ProtocolViolation("an embedding is no list of numbers")
        self._usage = answer.usage
        ordered = sorted(answer.data, key=lambda vector: vector.index)
        return [v.embedding for v in ordered], (answer.usage and answer.usage.prompt_tokens) or 0


def _most_tokens(body: bytes) -> int:
    """Return how many tokens a node takes, if an error says that an input has more; else 0.

    Source: llama.cpp, tools/server/server-context.cpp, where a prompt is looked at before it is run.
    """
    try:
        said = _error_decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    if said.type == "exceed_context_size_error":
        return said.n_ctx - 1  # one place is left for an answer, also where none is made
    batch = _BATCH.search(said.message)
    return int(batch[1]) if batch else 0


class EmbedBody(_EmbeddingsBody):
    """The answer of ``/api/embed``. Whole vectors are passed on as the node wrote them."""

    def __init__(self, call: EmbedCall) -> None:
        super().__init__()
        self._call = call

    def finish(self) -> bytes:
        """See :class:`~sollol.wire.translate_response.ResponseTranslator`."""
        call = self._call
        vectors, prompt_tokens = self._vectors(call.inputs)
        answer: dict[str, Any] = {
            "model": call.model,
            "embeddings": [shortened(vector, call.dimensions) for vector in vectors],
            "total_duration": call.clock.monotonic_ns() - call.started_ns,
        }
        if prompt_tokens:
            answer["prompt_eval_count"] = prompt_tokens
        return encode(answer)


class EmbeddingsBody(_EmbeddingsBody):
    """The answer of the older ``/api/embeddings``: one vector, not normalised."""

    def finish(self) -> bytes:
        """See :class:`~sollol.wire.translate_response.ResponseTranslator`."""
        vectors, _ = self._vectors(1)
        return encode({"embedding": vectors[0]})


def shortened(vector: msgspec.Raw, dimensions: int) -> msgspec.Raw | list[float]:
    """Return the first ``dimensions`` of a vector at length 1; all of it, untouched, for 0.

    Raises:
        ProtocolViolation: the vector is no list of numbers.
    """
    if dimensions <= 0:
        return vector
    try:
        numbers = _vector_decoder.decode(vector)
    except msgspec.DecodeError as error:
        raise ProtocolViolation(f"not an embedding: {error}") from error
    if dimensions >= len(numbers):
        return vector
    head = numbers[:dimensions]
    norm = math.hypot(*head)
    return [number / norm for number in head] if norm > 0 else head
