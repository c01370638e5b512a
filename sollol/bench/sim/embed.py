"""Embedding requests."""

import base64
import struct
from collections.abc import Sequence

from sollol.bench.sim.bodies import ApiError, Body, read_body, read_inputs, read_keep_alive
from sollol.bench.sim.call import Call, take_runner
from sollol.bench.sim.config import SimModel
from sollol.bench.sim.lease import Lease
from sollol.bench.sim.models import StoredModel, find_model
from sollol.bench.sim.records import Result, go_json
from sollol.bench.sim.text import count_tokens, embedding, normalised

_NOT_FOUND = 'model "{}" not found, try pulling it first'
_NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
_RAW_NORM = 8.0  # /api/embeddings does not normalise


async def embed(call: Call) -> None:
    """Serve ``POST /api/embed``."""
    body = read_body(call.body, "EmbedRequest")
    read_keep_alive(body.get("keep_alive"))
    inputs = read_inputs(body.get("input"))
    name = body.get("model") or ""
    call.name_model(name)
    stored = find_model(call.state.models, name, _NOT_FOUND if name else "model '' not found")
    vectors, result = await _embed(call, stored, body, [text for text in inputs if text])
    wanted = (b"total_duration", b"load_duration", b"prompt_eval_count")
    metrics = result.metrics() if vectors else []
    shown = {name.decode(): value for name, value in metrics if name in wanted}
    call.exchange.respond(200, go_json({"model": name, "embeddings": vectors, **shown}))


async def embeddings(call: Call) -> None:
    """Serve ``POST /api/embeddings``, which does not normalise."""
    body = read_body(call.body, "EmbeddingRequest")
    read_keep_alive(body.get("keep_alive"))
    name = body.get("model") or ""
    call.name_model(name)
    if not name:
        raise ApiError(400, "model is required")
    stored = find_model(call.state.models, name, _NOT_FOUND)
    vectors, _ = await _embed(call, stored, body, [body["prompt"]] if body.get("prompt") else [])
    vector = [value * _RAW_NORM for value in vectors[0]] if vectors else []
    call.exchange.respond(200, go_json({"embedding": vector}))


async def openai_embeddings(call: Call) -> None:
    """Serve ``POST /v1/embeddings``."""
    body = read_body(call.body, "EmbedRequest", empty="EOF")
    if not body.get("input"):
        raise ApiError(400, "invalid input", is_gin=True)
    as_base64 = _is_base64(body.get("encoding_format") or "float")
    inputs = read_inputs(body["input"])
    name = body.get("model") or ""
    call.name_model(name)
    stored = find_model(call.state.models, name, _NOT_FOUND)
    vectors, result = await _embed(call, stored, body, inputs)
    entries = [
        {
            "object": "embedding",
            "embedding": _packed(vector) if as_base64 else vector,
            "index": place,
        }
        for place, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    shown = {"object": "list", "data": entries, "model": name, "usage": usage}
    call.exchange.respond(200, go_json(shown) + b"\n", b"application/json")


async def _embed(
    call: Call, stored: StoredModel, body: Body, inputs: Sequence[str]
) -> tuple[list[tuple[float, ...]], Result]:
    """Return a vector for each input and the figures of the whole."""
    model = stored.model
    keep_alive_s = read_keep_alive(body.get("keep_alive"))
    runner, load_s = await take_runner(call, stored, body.get("options") or {}, keep_alive_s)
    async with Lease(call.state.engine, runner, load_s) as lease:
        if inputs and "embedding" not in model.capabilities:
            raise ApiError(501, _NO_EMBEDDINGS)
        await lease.embed(sum(map(count_tokens, inputs)))
        vectors = [_vector(model, text, body.get("dimensions")) for text in inputs]
    return vectors, Result("stop", lease.prompt_tokens, 0, lease.timings)


def _is_base64(encoding: str) -> bool:
    if encoding not in ("float", "base64"):
        supported = "Supported values: ['float', 'base64']."
        message = f"Invalid value for 'encoding_format' = {encoding}. {supported}"
        raise ApiError(400, message, is_gin=True)
    return encoding == "base64"


def _vector(model: SimModel, text: str, dimensions: object) -> tuple[float, ...]:
    vector = embedding(model.digest, text, model.embedding_length)
    if isinstance(dimensions, int) and 0 < dimensions < len(vector):
        return normalised(vector[:dimensions])
    return vector


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
