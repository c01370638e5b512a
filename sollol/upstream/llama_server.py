"""Reads the facts of a llama.cpp ``llama-server``, and of any other OpenAI-compatible server."""

import json
from http import HTTPStatus
from typing import Any

from sollol.types import Engine, Model, Resident
from sollol.upstream.control import ControlClient
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import json_object, objects
from sollol.wire.llama_facts import LlamaModel, ps_entry, read_llama_model, show_answer, tags_entry
from sollol.wire.names import model_key

EmbeddingsCache = dict[str, bool]
"""Whether the server at a URL was started with ``--embeddings``, which one and the same never changes."""


async def read_llama_facts(client: ControlClient, embeddings: EmbeddingsCache) -> NodeFacts:
    """Read health, properties, slots and the model of a llama-server, whose model is always loaded.

    Args:
        client: carries the address, time-outs and credentials.
        embeddings: kept between calls.

    Raises:
        SollolError: a route did not answer, or with an error status (503: still loading).
        ValueError: an answer is not what llama-server sends.
    """
    await client.recall("/health", _as_it_is)
    props = await client.recall("/props", _as_it_is)
    listing = await client.recall("/v1/models", _as_it_is)
    url = client.url
    if url not in embeddings:
        embeddings[url] = await _has_embeddings(client)
    served = [
        read_llama_model(entry, props, embeds=embeddings[url])
        for entry in objects(listing.get("data"), "id")
    ]
    return NodeFacts(
        engine=Engine.LLAMA_SERVER,
        version=str(props.get("build_info") or ""),
        models=tuple(_model(model) for model in served),
        resident=tuple(_resident(model) for model in served),
        slots=await _slots(client, props.get("total_slots")),
    )


async def read_openai_facts(client: ControlClient) -> NodeFacts:
    """Read the models of an OpenAI-compatible server, which tells nothing else.

    Raises:
        SollolError: no answer, or an error status.
        ValueError: the answer is not a list of models.
    """
    listing = await client.recall("/v1/models", _as_it_is)
    served = [read_llama_model(entry, {}) for entry in objects(listing.get("data"), "id")]
    return NodeFacts(
        engine=Engine.OPENAI,
        version="",
        models=tuple(_model(model) for model in served),
        resident=tuple(_resident(model) for model in served),
    )


def _as_it_is(answer: dict[str, Any]) -> dict[str, Any]:
    return answer


async def _slots(client: ControlClient, told: object) -> int | None:
    """Return how many sequences run at once: from the properties, or by counting the slots."""
    if isinstance(told, int) and told > 0:
        return told
    answer = await client.get("/slots")
    if answer.status != HTTPStatus.OK:
        return None
    slots = json.loads(answer.body)
    return len(slots) if isinstance(slots, list) and slots else None


async def _has_embeddings(client: ControlClient) -> bool:
    """Ask for no embedding at all: 501 says that the route is off, 400 that the question is odd."""
    path = "/v1/embeddings"
    answer = await client.post(path, {})
    if answer.status == HTTPStatus.NOT_IMPLEMENTED:
        return False
    return answer.status == HTTPStatus.BAD_REQUEST and bool(json_object(path, answer.body))


def _model(served: LlamaModel) -> Model:
    return Model(
        key=model_key(served.name),
        name=served.name,
        digest=served.digest,
        size_bytes=served.size_bytes,
        modified_at=served.modified_at,
        context_length=served.context_length or None,
        capabilities=frozenset(served.capabilities),
        entry=tags_entry(served),
        show=show_answer(served),
    )


def _resident(served: LlamaModel) -> Resident:
    entry = ps_entry(served)
    return Resident(
        key=model_key(served.name),
        name=served.name,
        digest=served.digest,
        size_bytes=served.size_bytes,
        context_length=served.context_length or None,
        expires_at=entry["expires_at"],
        entry=entry,
    )
