"""Reads the facts of a llama.cpp ``llama-server``, and of any other OpenAI-compatible server."""

import httpx

from sollol.types import Engine, Model, Resident
from sollol.upstream.facts import NodeFacts
from sollol.upstream.json import get_object, json_object, objects
from sollol.wire.llama_facts import LlamaModel, ps_entry, read_llama_model, show_answer, tags_entry
from sollol.wire.names import model_key

EmbeddingsCache = dict[str, bool]
"""Whether the server at a URL was started with ``--embeddings``, which it never changes."""


async def read_llama_facts(
    client: httpx.AsyncClient, url: str, embeddings: EmbeddingsCache
) -> NodeFacts:
    """Read health, properties, slots and the model of a llama-server, whose model is always loaded.

    Args:
        client: carries time-outs and credentials.
        url: the node's base URL without a trailing slash.
        embeddings: kept between calls.

    Raises:
        httpx.HTTPError: a route did not answer, or with an error status (503: still loading).
        ValueError: an answer is not what llama-server sends.
    """
    await get_object(client, f"{url}/health")
    props = await get_object(client, f"{url}/props")
    listing = await get_object(client, f"{url}/v1/models")
    if url not in embeddings:
        embeddings[url] = await _has_embeddings(client, url)
    served = [
        read_llama_model(entry, props, embeds=embeddings[url])
        for entry in objects(listing.get("data"), "id")
    ]
    return NodeFacts(
        engine=Engine.LLAMA_SERVER,
        version=str(props.get("build_info") or ""),
        models=tuple(_model(model) for model in served),
        resident=tuple(_resident(model) for model in served),
        slots=await _slots(client, url, props.get("total_slots")),
    )


async def read_openai_facts(client: httpx.AsyncClient, url: str) -> NodeFacts:
    """Read the models of an OpenAI-compatible server, which tells nothing else.

    Raises:
        httpx.HTTPError: no answer, or an error status.
        ValueError: the answer is not a list of models.
    """
    listing = await get_object(client, f"{url}/v1/models")
    served = [read_llama_model(entry, {}) for entry in objects(listing.get("data"), "id")]
    return NodeFacts(
        engine=Engine.OPENAI,
        version="",
        models=tuple(_model(model) for model in served),
        resident=tuple(_resident(model) for model in served),
    )


async def _slots(client: httpx.AsyncClient, url: str, told: object) -> int | None:
    """Return how many sequences run at once: from the properties, or by counting the slots."""
    if isinstance(told, int) and told > 0:
        return told
    response = await client.get(f"{url}/slots")
    if response.status_code != httpx.codes.OK:
        return None
    slots = response.json()
    return len(slots) if isinstance(slots, list) and slots else None


async def _has_embeddings(client: httpx.AsyncClient, url: str) -> bool:
    """Ask for no embedding at all: 501 says that the route is off, 400 that the question is odd."""
    response = await client.post(f"{url}/v1/embeddings", json={})
    if response.status_code == httpx.codes.NOT_IMPLEMENTED:
        return False
    return response.status_code == httpx.codes.BAD_REQUEST and bool(json_object(response))


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
